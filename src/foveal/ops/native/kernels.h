/* What the CPU kernels share: vectors of one instruction set, bfloat16, the matrix product of a tile, torch's threads.
 *
 * Each .c file beside this one but dispatch.c is compiled once for every instruction set, with ISA naming it and LANES
 * floats a vector; FOVEAL(name) gives its functions names of their own. */
#ifndef FOVEAL_KERNELS_H
#define FOVEAL_KERNELS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(TILES) && !defined(EMULATED_TILES)
#include <immintrin.h>
#endif

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define FOVEAL(name) JOIN(name, ISA)
#define INLINE static inline __attribute__((always_inline))
#define SHARED static inline __attribute__((unused))

/* A product of a tile: ROWS rows at a time with two vectors of columns; what fits the registers. */
#if LANES == 16
#define ROWS 14
#define EVERY_ROWS(CASE) \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14)
#else
#define ROWS 6
#define EVERY_ROWS(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#endif
#define COLUMNS (2 * LANES)

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef float loose __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(LANES * 4)));
typedef uint32_t bits __attribute__((vector_size(LANES * 4)));
typedef uint16_t halves __attribute__((vector_size(LANES * 2)));
typedef uint16_t loose_halves __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

INLINE vec load(const float *p) { return *(const loose *)p; }
INLINE void store(float *p, vec v) { *(loose *)p = v; }
INLINE vec splat(float a) { return a - (vec){0}; }

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t up(int64_t a, int64_t step) { return (a + step - 1) / step * step; }
INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* dtype of a map or a weight */
enum { FLOAT32 = 0, BFLOAT16 = 1 };

INLINE float from_bfloat16(uint16_t narrow) {
    uint32_t wide = (uint32_t)narrow << 16;
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

/* LANES neighbouring elements from number `at` on, and back. */
INLINE vec load_any(const void *map, int64_t at, int dtype) {
    if (dtype == FLOAT32) return load((const float *)map + at);
    halves narrow = *(const loose_halves *)((const uint16_t *)map + at);
    return (vec)(__builtin_convertvector(narrow, bits) << 16);
}

INLINE void store_any(void *map, int64_t at, int dtype, vec v) {
    if (dtype == FLOAT32) {
        store((float *)map + at, v);
        return;
    }
#if defined(TILES) && !defined(EMULATED_TILES)
    *(loose_halves *)((uint16_t *)map + at) = (halves)_mm512_cvtneps_pbh((__m512)v);
#else
    bits wide = (bits)v, not_a_number = (bits)(v != v);
    bits rounded = (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
    bits kept = (not_a_number & (wide >> 16 | 0x40)) | (~not_a_number & rounded);
    *(loose_halves *)((uint16_t *)map + at) = __builtin_convertvector(kept, halves);
#endif
}

INLINE float get(const void *map, int64_t at, int dtype) {
    return dtype == FLOAT32 ? ((const float *)map)[at] : from_bfloat16(((const uint16_t *)map)[at]);
}

INLINE void put(void *map, int64_t at, int dtype, float value) {
    if (dtype == FLOAT32)
        ((float *)map)[at] = value;
    else
        ((uint16_t *)map)[at] = to_bfloat16(value);
}

/* The first `count` of LANES elements, zeros behind. */
INLINE vec load_some(const void *map, int64_t at, int dtype, int64_t count) {
    if (count >= LANES) return load_any(map, at, dtype);
    float some[LANES] __attribute__((aligned(64))) = {0};
    for (int64_t j = 0; j < count; j++) some[j] = get(map, at + j, dtype);
    return load(some);
}

INLINE void store_some(void *map, int64_t at, int dtype, int64_t count, vec v) {
    if (count >= LANES) {
        store_any(map, at, dtype, v);
        return;
    }
    float some[LANES] __attribute__((aligned(64)));
    store(some, v);
    for (int64_t j = 0; j < count; j++) put(map, at + j, dtype, some[j]);
}

INLINE vec shuffle(vec a, vec b, ints lane) {
#ifdef __clang__
    vec out = a;
    for (int j = 0; j < LANES; j++) out[j] = lane[j] < LANES ? a[lane[j]] : b[lane[j] - LANES];
    return out;
#else
    return __builtin_shuffle(a, b, lane);
#endif
}

/* LANES rows of one vector each become its columns. */
INLINE void transpose(vec *row) {
    ints lane = {0};
    for (int j = 0; j < LANES; j++) lane[j] = j;
#pragma GCC unroll 4
    for (int half = 1; half < LANES; half *= 2) {
        ints other = ((lane & half) != 0) & (LANES - half);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            if (i & half) continue;
            vec a = row[i], b = row[i + half];
            row[i] = shuffle(a, b, lane + other);
            row[i + half] = shuffle(a, b, lane + half + other);
        }
    }
}

/* Pixels of a map, from element `at` on, their numbers `pixel` and their channels `channel` elements apart, as rows of floats
 * `row` apart; from `channels` up to `padded` (whole vectors) they are zeros. */
SHARED void read_pixels(const void *map, int64_t at, int64_t pixel, int64_t channel, int dtype, int64_t pixels,
                        int64_t channels, int64_t padded, float *to, int64_t row) {
    if (channel == 1) {
        for (int64_t i = 0; i < pixels; i++)
            for (int64_t k = 0; k < padded; k += LANES)
                store(to + i * row + k, load_some(map, at + i * pixel + k, dtype, channels - k));
        return;
    }
    for (int64_t k = 0; k < padded; k += LANES)
        for (int64_t i = 0; i < pixels; i += LANES) {
            const int64_t wide = least(LANES, pixels - i), deep = most(0, least(LANES, channels - k));
            vec line[LANES];
            if (pixel == 1 && wide == LANES && deep == LANES) {
#pragma GCC unroll 16
                for (int l = 0; l < LANES; l++) line[l] = load_any(map, at + (k + l) * channel + i, dtype);
                transpose(line);
#pragma GCC unroll 16
                for (int l = 0; l < LANES; l++) store(to + (i + l) * row + k, line[l]);
                continue;
            }
            for (int64_t j = 0; j < wide; j++)
                for (int64_t l = 0; l < LANES; l++)
                    to[(i + j) * row + k + l] = l < deep ? get(map, at + (k + l) * channel + (i + j) * pixel, dtype) : 0;
        }
}

/* The way back; only `channels` are written. `from` has whole vectors. */
SHARED void write_pixels(void *map, int64_t at, int64_t pixel, int64_t channel, int dtype, int64_t pixels, int64_t channels,
                         const float *from, int64_t row) {
    if (channel == 1) {
        for (int64_t i = 0; i < pixels; i++)
            for (int64_t k = 0; k < channels; k += LANES)
                store_some(map, at + i * pixel + k, dtype, channels - k, load(from + i * row + k));
        return;
    }
    for (int64_t k = 0; k < channels; k += LANES)
        for (int64_t i = 0; i < pixels; i += LANES) {
            const int64_t wide = least(LANES, pixels - i), deep = least(LANES, channels - k);
            vec line[LANES];
            if (pixel == 1 && wide == LANES && deep == LANES) {
#pragma GCC unroll 16
                for (int l = 0; l < LANES; l++) line[l] = load(from + (i + l) * row + k);
                transpose(line);
#pragma GCC unroll 16
                for (int l = 0; l < LANES; l++) store_any(map, at + (k + l) * channel + i, dtype, line[l]);
                continue;
            }
            for (int64_t l = 0; l < deep; l++)
                for (int64_t j = 0; j < wide; j++)
                    put(map, at + (k + l) * channel + (i + j) * pixel, dtype, from[(i + j) * row + k + l]);
        }
}

/* Vector i becomes lane i of the result, added up: halves of two vectors at a time, then quarters, and so on. */
SHARED vec total_of_rows(vec *row) {
    ints lane = {0};
    for (int j = 0; j < LANES; j++) lane[j] = j;
#pragma GCC unroll 4
    for (int half = LANES / 2; half > 0; half /= 2) {
        ints second = ((lane & half) != 0) & LANES; /* lanes of the second row stay where they are, its others come to them */
#pragma GCC unroll 8
        for (int i = 0; i < half; i++)
            row[i] = shuffle(row[i], row[i + half], lane + second) + shuffle(row[i], row[i + half], (lane ^ half) + second);
    }
    return row[0];
}

/* Up to LANES rows `step` apart, the first at element `at` of `size`, with up to LANES elements each, as columns. What lies
 * behind the elements of a row may be anything. */
INLINE void load_square(const void *from, int dtype, int64_t size, int64_t at, int64_t step, int64_t rows, int64_t elements,
                        vec *line) {
    if (rows >= LANES && at + (LANES - 1) * step + LANES <= size) {
#pragma GCC unroll 16
        for (int l = 0; l < LANES; l++) line[l] = load_any(from, at + l * step, dtype);
    } else {
        for (int64_t l = 0; l < LANES; l++) line[l] = l < rows ? load_some(from, at + l * step, dtype, elements) : (vec){0};
    }
    transpose(line);
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

/* 64 bytes aligned; one line behind the end may be read. NULL when there is no memory. */
INLINE float *floats(int64_t count) { return aligned_alloc(64, (size_t)up(count * 4 + 256, 64)); }

/* Room for a packed weight, kept from one call for the next: the system gives fresh memory page by page, which takes as long
 * as packing. A call that finds it taken by another, or too small, gets its own. What is large is not kept. */
enum { HEAD = 16, MOST_KEPT = 4 << 20 }; /* floats */
static float *spare;

SHARED float *borrow(int64_t count) {
    float *room = __atomic_exchange_n(&spare, (float *)0, __ATOMIC_ACQ_REL);
    int64_t size = 0;
    if (room) memcpy(&size, room, sizeof size);
    if (size < count) {
        free(room);
        room = floats(HEAD + count);
        if (!room) return 0;
        memcpy(room, &count, sizeof count);
    }
    return room + HEAD;
}

SHARED void give_back(float *room) {
    if (!room) return;
    room -= HEAD;
    int64_t size;
    memcpy(&size, room, sizeof size);
    free(size <= MOST_KEPT ? __atomic_exchange_n(&spare, room, __ATOMIC_ACQ_REL) : room);
}

/* Products are added up in pieces, so that rounding does not grow with the depth, and a piece of the weight stays near. */
enum { PIECE = 512 };

/* out[i, :] = base + sum over k of a[i, k] * b[k, :], or out[i, :] += that sum where there is no base, for m rows and one or
 * two vectors of columns; b is packed, COLUMNS a row. */
INLINE void product_rows(const int m, const int vectors, const float *a, int64_t a_row, const float *b, int64_t depth,
                         float *out, int64_t out_row, const float *base) {
    vec sum[ROWS][2];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) sum[i][0] = sum[i][1] = (vec){0};
    for (int64_t k = 0; k < depth; k++) {
        vec b0 = load(b + k * COLUMNS), b1 = vectors > 1 ? load(b + k * COLUMNS + LANES) : b0;
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            vec one = splat(a[i * a_row + k]);
            sum[i][0] += one * b0;
            if (vectors > 1) sum[i][1] += one * b1;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        float *to = out + i * out_row;
        const float *from = base ? base : to;
        store(to, load(from) + sum[i][0]);
        if (vectors > 1) store(to + LANES, load(from + LANES) + sum[i][1]);
    }
}

SHARED void product(int64_t m, int64_t vectors, const float *a, int64_t a_row, const float *b, int64_t depth, float *out,
                    int64_t out_row, const float *base) {
#define CASE(n)                                                           \
    case n:                                                               \
        if (vectors > 1)                                                  \
            product_rows(n, 2, a, a_row, b, depth, out, out_row, base); \
        else                                                              \
            product_rows(n, 1, a, a_row, b, depth, out, out_row, base); \
        break;
    switch (m) { EVERY_ROWS(CASE) }
#undef CASE
}

/* A weight of `size` elements, from element `first` on: `outs` output channels `out_step` apart, `count` input channels
 * `in_step` apart, columns side by side, as panels [ceil(outs / COLUMNS), columns * count, COLUMNS]; a last vector is filled up with zeros. */
SHARED void pack_panels(const void *weight, int dtype, int64_t size, int64_t first, int64_t out_step, int64_t outs,
                        int64_t in_step, int64_t count, int64_t columns, float *to) {
    /* columns of neighbouring channels may lie side by side, too */
    const int64_t run = in_step == columns ? count : 1;
    for (int64_t o = 0; o < up(outs, LANES); o += LANES) { /* a vector behind the last is not read */
        float *panel = to + o / COLUMNS * count * columns * COLUMNS + o % COLUMNS;
        for (int64_t first_k = 0; first_k < count; first_k += run) {
            int64_t k = first_k, r = 0;
            for (int64_t q = 0; q < run * columns; q += LANES) {
                vec line[LANES];
                load_square(weight, dtype, size, first + o * out_step + first_k * in_step + q, out_step, outs - o, run * columns - q,
                            line);
                for (int64_t l = 0; l < least(LANES, run * columns - q); l++) {
                    store(panel + (r * count + k) * COLUMNS, line[l]);
                    if (++r == columns) r = 0, k++;
                }
            }
        }
    }
}

/* The gradient of a weight, laid out as above with its columns side by side, from partial sums [slots, columns * count, row] that
 * are `slot` floats apart: added up in the order of their slots. */
SHARED void unpack_sums(const float *from, int64_t slots, int64_t slot, int64_t row, int64_t outs, int64_t count, int64_t columns,
                        void *gradient, int dtype, int64_t first, int64_t out_step, int64_t in_step) {
    for (int64_t k = 0; k < count; k++)
        for (int64_t o = 0; o < outs; o += LANES)
            for (int64_t r = 0; r < columns; r += LANES) {
                vec line[LANES];
                for (int64_t l = 0; l < LANES; l++) {
                    line[l] = (vec){0};
                    for (int64_t s = 0; s < slots && r + l < columns; s++)
                        line[l] += load(from + s * slot + ((r + l) * count + k) * row + o);
                }
                transpose(line);
                for (int64_t l = 0; l < least(LANES, outs - o); l++)
                    store_some(gradient, first + (o + l) * out_step + k * in_step + r, dtype, columns - r, line[l]);
            }
}

/* a [rows, depth] times packed b [panels, depth, COLUMNS] to `columns` columns of out; base (a row, or NULL) as above. */
SHARED void multiply(int64_t rows, const float *a, int64_t a_row, const float *b, int64_t depth, int64_t columns, float *out,
                     int64_t out_row, const float *base) {
    const int64_t parts = ceil_div(rows, ROWS), some = ceil_div(rows, parts);
    const int64_t pieces = ceil_div(depth, PIECE), piece = ceil_div(depth, pieces);
    for (int64_t k = 0; k < depth; k += piece)
        for (int64_t o = 0; o < columns; o += COLUMNS)
            for (int64_t i = 0; i < rows; i += some)
                product(least(some, rows - i), columns - o > LANES ? 2 : 1, a + i * a_row + k, a_row,
                        b + o * depth + k * COLUMNS, least(piece, depth - k), out + i * out_row + o, out_row,
                        base && k == 0 ? base + o : 0);
}

#ifdef TILES
/* Matrix tiles for bfloat16: 16 rows of 64 bytes. Tests run the same code on tiles in memory (EMULATED_TILES). */
#ifdef EMULATED_TILES
static __thread union {
    uint8_t byte[1024];
    uint16_t half[16][32];
    float value[16][16];
} tile_in_memory[8];
#define _tile_zero(t) memset(tile_in_memory[t].byte, 0, 1024)
#define _tile_loadd(t, from, step) \
    for (int row_ = 0; row_ < 16; row_++) memcpy(tile_in_memory[t].byte + 64 * row_, (const char *)(from) + row_ * (step), 64)
#define _tile_stored(t, to, step) \
    for (int row_ = 0; row_ < 16; row_++) memcpy((char *)(to) + row_ * (step), tile_in_memory[t].byte + 64 * row_, 64)
#define _tile_dpbf16ps(c, a, b)                                                                                      \
    for (int i_ = 0; i_ < 16; i_++)                                                                                  \
        for (int j_ = 0; j_ < 16; j_++)                                                                              \
            for (int k_ = 0; k_ < 32; k_++)                                                                          \
                tile_in_memory[c].value[i_][j_] += from_bfloat16(tile_in_memory[a].half[i_][k_]) *                   \
                                                   from_bfloat16(tile_in_memory[b].half[k_ / 2][2 * j_ + k_ % 2])
#define _tile_loadconfig(shape) ((void)(shape))
#define _tile_release()
#endif

/* All eight tiles are whole: a thread says so before it uses them. */
INLINE void begin_tiles(void) {
    struct {
        uint8_t palette, start, zero[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape __attribute__((aligned(64)));
    memset(&shape, 0, sizeof shape);
    shape.palette = 1;
    for (int t = 0; t < 8; t++) shape.bytes[t] = 64, shape.rows[t] = 16;
    _tile_loadconfig(&shape);
}

/* A packed weight [depth, COLUMNS] of numbers that are bfloat16, as pairs of rows side by side: [depth / 32, 2, 16, 16, 2]. */
SHARED void pack_tiles(const float *from, int64_t depth, uint16_t *to) {
    for (int64_t k = 0; k < depth; k += 2)
        for (int64_t v = 0; v < 2; v++) {
            bits low = (bits)load(from + k * COLUMNS + v * LANES), high = (bits)load(from + (k + 1) * COLUMNS + v * LANES);
            store((float *)(to + k / 32 * 1024 + v * 512 + k % 32 * 16), (vec)((high & 0xffff0000u) | low >> 16));
        }
}

/* As multiply, for a in bfloat16 and b of pack_tiles, depth a multiple of 32. 32 rows of a may be read from any of `rows` on. */
SHARED void multiply_tiles(int64_t rows, const uint16_t *a, int64_t a_row, const uint16_t *b, int64_t depth, int64_t columns,
                           float *out, int64_t out_row, const float *base) {
    float sum[32 * 32] __attribute__((aligned(64)));
    for (int64_t o = 0; o < columns; o += COLUMNS)
        for (int64_t i = 0; i < rows; i += 32) {
            const uint16_t *left = a + i * a_row, *right = b + o * depth;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (int64_t k = 0; k < depth; k += 32, right += 1024) {
                _tile_loadd(4, left + k, 2 * a_row);
                _tile_loadd(5, left + 16 * a_row + k, 2 * a_row);
                _tile_loadd(6, right, 64);
                _tile_loadd(7, right + 512, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, sum, 128);
            _tile_stored(1, sum + 16, 128);
            _tile_stored(2, sum + 16 * 32, 128);
            _tile_stored(3, sum + 16 * 32 + 16, 128);
            for (int64_t r = 0; r < least(32, rows - i); r++)
                for (int64_t v = 0; v < least(COLUMNS, up(columns - o, LANES)); v += LANES) {
                    float *to = out + (i + r) * out_row + o + v;
                    store(to, load(base ? base + o + v : to) + load(sum + r * 32 + v));
                }
        }
}
#endif

/* out[k, :] += sum over i of a[i, k] * b[i, :], for `deep` rows of out and one or two vectors of columns: added up apart, so
 * that rounding does not grow with the image. */
INLINE void transposed_rows(const int deep, const int vectors, int64_t rows, const float *a, int64_t a_row, const float *b,
                            int64_t b_row, float *out, int64_t out_row) {
    vec sum[ROWS][2];
#pragma GCC unroll 16
    for (int i = 0; i < deep; i++) sum[i][0] = sum[i][1] = (vec){0};
    for (int64_t p = 0; p < rows; p++) {
        vec b0 = load(b + p * b_row), b1 = vectors > 1 ? load(b + p * b_row + LANES) : b0;
#pragma GCC unroll 16
        for (int i = 0; i < deep; i++) {
            vec one = splat(a[p * a_row + i]);
            sum[i][0] += one * b0;
            if (vectors > 1) sum[i][1] += one * b1;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < deep; i++) {
        float *to = out + i * out_row;
        store(to, load(to) + sum[i][0]);
        if (vectors > 1) store(to + LANES, load(to + LANES) + sum[i][1]);
    }
}

/* The transposed product, for the gradient of a weight: `depth` rows of out, `columns` columns, the last vector whole. */
SHARED void multiply_transposed(int64_t rows, const float *a, int64_t a_row, int64_t depth, const float *b, int64_t b_row,
                                int64_t columns, float *out, int64_t out_row) {
    const int64_t some = ceil_div(depth, ceil_div(depth, ROWS));
#define CASE(n)                                                                                              \
    case n:                                                                                                  \
        if (columns - o > LANES)                                                                             \
            transposed_rows(n, 2, rows, a + k, a_row, b + o, b_row, out + k * out_row + o, out_row); \
        else                                                                                                 \
            transposed_rows(n, 1, rows, a + k, a_row, b + o, b_row, out + k * out_row + o, out_row); \
        break;
    for (int64_t k = 0; k < depth; k += some)
        for (int64_t o = 0; o < columns; o += COLUMNS)
            switch (least(some, depth - k)) { EVERY_ROWS(CASE) }
#undef CASE
}

#endif
