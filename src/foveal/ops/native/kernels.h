/* What the CPU kernels share: vectors of one instruction set, bfloat16, the matrix product of a tile, torch's threads.
 *
 * Each .c file beside this one but dispatch.c is compiled once for every instruction set, with ISA naming it and LANES
 * floats a vector; FOVEAL(name) gives its functions names of their own. */
#ifndef FOVEAL_KERNELS_H
#define FOVEAL_KERNELS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define FOVEAL(name) JOIN(name, ISA)
#define INLINE static inline __attribute__((always_inline))

/* A product of a tile: ROWS rows at a time with two vectors of columns; what fits the registers. */
#if LANES == 16
#define ROWS 14
#else
#define ROWS 6
#endif
#define COLUMNS (2 * LANES)

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef float loose __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

INLINE vec load(const float *p) { return *(const loose *)p; }
INLINE void store(float *p, vec v) { *(loose *)p = v; }
INLINE vec splat(float a) { return a - (vec){0}; }

/* dtype of a map */
enum { FLOAT32 = 0, BFLOAT16 = 1 };

INLINE float from_bfloat16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

INLINE uint16_t to_bfloat16(float value) {
    uint32_t wide;
    memcpy(&wide, &value, 4);
    if ((wide & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(wide >> 16 | 0x40); /* NaN stays NaN */
    return (uint16_t)((wide + 0x7fffu + (wide >> 16 & 1)) >> 16);               /* to nearest, ties to even */
}

/* Elements of a map, `step` apart, as floats `next` apart, and back. */
static inline __attribute__((unused)) void read_line(const void *map, int64_t at, int64_t step, int dtype, float *to, int64_t next,
                                                     int64_t count) {
    if (dtype == BFLOAT16) {
        const uint16_t *from = (const uint16_t *)map + at;
        for (int64_t i = 0; i < count; i++) to[i * next] = from_bfloat16(from[i * step]);
    } else if (step == 1 && next == 1) {
        memcpy(to, (const float *)map + at, (size_t)count * 4);
    } else {
        const float *from = (const float *)map + at;
        for (int64_t i = 0; i < count; i++) to[i * next] = from[i * step];
    }
}

static inline __attribute__((unused)) void write_line(void *map, int64_t at, int64_t step, int dtype, const float *from, int64_t next,
                                                      int64_t count) {
    if (dtype == BFLOAT16) {
        uint16_t *to = (uint16_t *)map + at;
        for (int64_t i = 0; i < count; i++) to[i * step] = to_bfloat16(from[i * next]);
    } else if (step == 1 && next == 1) {
        memcpy((float *)map + at, from, (size_t)count * 4);
    } else {
        float *to = (float *)map + at;
        for (int64_t i = 0; i < count; i++) to[i * step] = from[i * next];
    }
}

/* A map [N, C, H, W] anywhere in memory: strides in elements. */
typedef struct {
    void *data;
    int64_t n, c, h, w;
} map_t;

/* torch's own loop over threads: torch_parallel_for(begin, end, grain, body, context), or a plain loop. */
typedef void (*body_t)(int64_t begin, int64_t end, void *context);
typedef int32_t (*parallel_t)(int64_t begin, int64_t end, int64_t grain, body_t body, void *context);
extern parallel_t foveal_parallel;

INLINE void parallel(int64_t end, body_t body, void *context) {
    if (foveal_parallel && end > 1)
        foveal_parallel(0, end, 1, body, context);
    else if (end > 0)
        body(0, end, context);
}

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t up(int64_t a, int64_t step) { return (a + step - 1) / step * step; }

/* 64 bytes aligned; one line behind the end may be read. NULL when there is no memory. */
INLINE float *floats(int64_t count) { return aligned_alloc(64, (size_t)up(count * 4 + 256, 64)); }

/* out[i, :] (+)= sum over k of a[i, k] * b[k, :] for m rows and COLUMNS columns; b is [depth, COLUMNS], packed. */
INLINE void product_rows(const int m, const float *a, int64_t a_row, const float *b, int64_t depth, float *out,
                         int64_t out_row, int fresh) {
    vec sum[ROWS][2];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) sum[i][0] = sum[i][1] = (vec){0};
    for (int64_t k = 0; k < depth; k++) {
        vec b0 = load(b + k * COLUMNS), b1 = load(b + k * COLUMNS + LANES);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            vec one = splat(a[i * a_row + k]);
            sum[i][0] += one * b0;
            sum[i][1] += one * b1;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        float *to = out + i * out_row;
        store(to, fresh ? sum[i][0] : load(to) + sum[i][0]);
        store(to + LANES, fresh ? sum[i][1] : load(to + LANES) + sum[i][1]);
    }
}

static inline __attribute__((unused)) void product(int m, const float *a, int64_t a_row, const float *b, int64_t depth,
                                                   float *out, int64_t out_row, int fresh) {
    /* in pieces that are added up apart, so that rounding does not grow with the depth */
    enum { PIECE = 256 };
#define CASE(n) \
    case n: product_rows(n, a + k, a_row, b + k * COLUMNS, least(PIECE, depth - k), out, out_row, fresh && k == 0); break;
    for (int64_t k = 0; k < depth; k += PIECE) switch (m) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if ROWS > 6
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14)
#endif
    }
#undef CASE
}

/* out[k, :] += sum over i of a[i, k] * b[i, :]: the transposed product, for the gradient of a weight. depth rows of out
 * (a multiple of 4), COLUMNS columns; a is [count, depth], b has b_row between rows. */
static inline __attribute__((unused)) void product_transposed(int64_t count, const float *a, int64_t a_row, int64_t depth,
                                                              const float *b, int64_t b_row, float *out,
                                                              int64_t out_row) {
    enum { DEEP = LANES == 16 ? 8 : 4 };
    for (int64_t k = 0; k < depth; k += DEEP) {
        vec sum[DEEP][2];
#pragma GCC unroll 8
        for (int i = 0; i < DEEP; i++) {
            sum[i][0] = (vec){0};
            sum[i][1] = (vec){0};
        }
        for (int64_t p = 0; p < count; p++) {
            vec b0 = load(b + p * b_row), b1 = load(b + p * b_row + LANES);
#pragma GCC unroll 8
            for (int i = 0; i < DEEP; i++) {
                vec one = splat(a[p * a_row + k + i]);
                sum[i][0] += one * b0;
                sum[i][1] += one * b1;
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < DEEP; i++) {
            float *to = out + (k + i) * out_row; /* added up apart, so that rounding does not grow with the image */
            store(to, load(to) + sum[i][0]);
            store(to + LANES, load(to + LANES) + sum[i][1]);
        }
    }
}

#endif
