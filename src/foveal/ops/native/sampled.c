/* Sampled convolution: every tap reads its four pixels, a strip of output pixels at a time, and a matrix product follows. The
 * same file, included with DIMS 3, is that of volumes, whose taps read eight voxels.
 *
 * Without a weight what is read is summed over the taps instead. */
#include "sampled.h"

INLINE void blend(const corners_t *c, int64_t i, const float *image, int64_t step, const int vectors, float *out) {
    const float *from[CORNERS];
    vec share[CORNERS];
#pragma GCC unroll 8
    for (int n = 0; n < CORNERS; n++) from[n] = pixel(image, step, c->at[n][i]), share[n] = splat(c->share[n][i]);
#pragma GCC unroll 8
    for (int v = 0; v < vectors * LANES; v += LANES) {
        vec sum = share[0] * load(from[0] + v);
#pragma GCC unroll 8
        for (int n = 1; n < CORNERS; n++) sum += share[n] * load(from[n] + v);
        store(out + v, sum);
    }
}

/* Blend a block of channels, `count` of them, of every tap, from position `from` of the strip on: [m, taps * count]. */
static void read_strip(const work_t *w, const corners_t *all, int64_t from, const float *image, int64_t count, int64_t m,
                       float *columns) {
    const sampled_t *job = w->job;
    const int64_t step = job->input.w;
    for (int64_t t = 0; t < job->taps; t++) {
        const corners_t *c = all + t;
        float *out = columns + t * count;
#define BLEND(vectors) \
    for (int64_t i = 0; i < m; i++) blend(c, from + i, image, step, vectors, out + i * w->line);
        if (count == 64 && LANES >= 8) {
            BLEND(64 / LANES)
        } else if (count == 32) {
            BLEND(32 / LANES)
        } else if (count == 16) {
            BLEND(16 / LANES)
        } else {
            for (int64_t i = from; i < from + m; i++) {
                float *to = out + (i - from) * w->line;
#pragma GCC unroll 2
                for (int n = 0; n < CORNERS; n += 4) {
                    const float *p0 = pixel(image, step, c->at[n][i]), *p1 = pixel(image, step, c->at[n + 1][i]);
                    const float *p2 = pixel(image, step, c->at[n + 2][i]), *p3 = pixel(image, step, c->at[n + 3][i]);
                    float s0 = c->share[n][i], s1 = c->share[n + 1][i], s2 = c->share[n + 2][i], s3 = c->share[n + 3][i];
                    if (n)
                        for (int64_t k = 0; k < count; k++) to[k] += s0 * p0[k] + s1 * p1[k] + s2 * p2[k] + s3 * p3[k];
                    else
                        for (int64_t k = 0; k < count; k++) to[k] = s0 * p0[k] + s1 * p1[k] + s2 * p2[k] + s3 * p3[k];
                }
            }
        }
#undef BLEND
    }
}

/* Where the corners of m positions lie, in floats from the first pixel of an image; those outside lie at ZEROS. Products of 32
 * bits, where an image allows them, are twice as many a vector. */
INLINE void reach_corners(const int32_t *at, int64_t m, int64_t step, const int narrow, int64_t zeros, int64_t *reach) {
    for (int64_t i = 0; i < m; i++)
        reach[i] = at[i] < 0 ? zeros : narrow ? (int64_t)(int32_t)((uint32_t)at[i] * (uint32_t)step) : at[i] * step;
}
INLINE const float *reached(const float *image, int64_t reach) { return (const float *)((uintptr_t)image + (uintptr_t)reach * 4); }

/* Add up what a pixel's taps read of `vectors` vectors of channels, from position i on: four sums, or one corner would wait for
 * the other. */
INLINE void add_taps(const corners_t *all, const int64_t *reach, int64_t taps, int64_t at, int64_t i, const float *image,
                     const int vectors, float *out, const float *base) {
    vec sum[4][4];
#pragma GCC unroll 4
    for (int n = 0; n < 4; n++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[n][v] = n ? (vec){0} : load(base + v * LANES);
    for (int64_t t = 0; t < taps; t++) {
#pragma GCC unroll 8
        for (int n = 0; n < CORNERS; n++) {
            const float *from = reached(image, reach[(CORNERS * t + n) * CHUNK + i]);
            vec share = splat(all[t].share[n][at]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sum[n % 4][v] += share * load(from + v * LANES);
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) store(out + v * LANES, (sum[0][v] + sum[1][v]) + (sum[2][v] + sum[3][v]));
}

/* Without a weight: a block of channels, `count` of them, summed over the taps, from position `from` of the strip on;
 * `reach` is room for where the corners lie. */
static void sum_strip(const work_t *w, const corners_t *all, int64_t from, const float *image, int64_t count, int64_t m,
                      float *out, int64_t out_row, const float *base, int64_t *reach) {
    const sampled_t *job = w->job;
    const int64_t taps = job->taps, step = job->input.w, zeros = (int64_t)((uintptr_t)ZEROS - (uintptr_t)image) / 4;
    const int narrow = job->depth * job->height * job->width * step <= INT32_MAX;
    for (int64_t t = 0; t < taps; t++)
        for (int n = 0; n < CORNERS; n++)
            if (narrow)
                reach_corners(all[t].at[n] + from, m, step, 1, zeros, reach + (CORNERS * t + n) * CHUNK);
            else
                reach_corners(all[t].at[n] + from, m, step, 0, zeros, reach + (CORNERS * t + n) * CHUNK);
    for (int64_t i = 0; i < m; i++) {
        float *to = out + i * out_row;
        int64_t k = 0;
        for (; k + 4 * LANES <= count; k += 4 * LANES) add_taps(all, reach, taps, from + i, i, image + k, 4, to + k, base + k);
        for (; k + 2 * LANES <= count; k += 2 * LANES) add_taps(all, reach, taps, from + i, i, image + k, 2, to + k, base + k);
        for (; k + LANES <= count; k += LANES) add_taps(all, reach, taps, from + i, i, image + k, 1, to + k, base + k);
        if (k == count) continue;
        float sum[LANES];
        memcpy(sum, base + k, (size_t)(count - k) * 4);
        for (int64_t t = 0; t < taps; t++)
            for (int n = 0; n < CORNERS; n++) {
                const float *one = reached(image, reach[(CORNERS * t + n) * CHUNK + i]) + k;
                const float share = all[t].share[n][from + i];
                for (int64_t j = 0; j < count - k; j++) sum[j] += share * one[j];
            }
        memcpy(to + k, sum, (size_t)(count - k) * 4);
    }
}

/* weight -> [set, G, blocks, panels, taps * channels, COLUMNS], or turned [set, G, blocks, depth / COLUMNS, O, COLUMNS]. */
static void pack_weight(int64_t begin, int64_t end, void *context) {
    const work_t *w = context;
    const sampled_t *job = w->job;
    const int64_t taps = job->taps, outs = job->out_channels, out_step = job->channels * taps;
    const int64_t size = (job->own_weights ? job->sets : 1) * job->groups * outs * out_step;
    for (int64_t task = begin; task < end; task++) {
        const int64_t b = task % w->blocks, first = task / w->blocks * outs * out_step + first_of(w, b) * taps;
        if (w->packed)
            pack_panels(job->weight, job->weight_type, size, first, out_step, outs, taps, kept(w, b), taps,
                        w->packed + task * w->panels * taps * w->block * COLUMNS);
        if (!w->packed_turned) continue;
        float *to = w->packed_turned + task * w->depth * outs;
        if (kept(w, b) < w->block || taps * w->block < w->depth) memset(to, 0, (size_t)(w->depth * outs) * 4);
        for (int64_t o = 0; o < outs; o++)
            for (int64_t k = 0; k < kept(w, b); k += LANES)
                for (int64_t t = 0; t < taps; t += LANES) {
                    vec line[LANES];
                    load_square(job->weight, job->weight_type, size, first + o * out_step + k * taps + t, taps, kept(w, b) - k, taps - t, line);
                    for (int64_t l = 0; l < least(LANES, taps - t); l++) {
                        const int64_t at = (t + l) * w->block + k;
                        store(to + (at / COLUMNS * outs + o) * COLUMNS + at % COLUMNS, line[l]);
                    }
                }
    }
}

/* Strips of an image, of nearly the same length. Without a product to feed short ones do, and their corners stay near. */
static int64_t strips(const work_t *w) { return ceil_div(w->positions, w->job->weight ? STRIP : 2 * LANES); }

static void forward_strips(int64_t begin, int64_t end, void *context) {
    work_t *w = context;
    const sampled_t *job = w->job;
    const map_t *to = &job->output;
    const int64_t all = job->groups * w->row, long_ = up(ceil_div(w->positions, strips(w)), job->weight ? ROWS : LANES);
    const int direct = job->output_type == FLOAT32 && to->c == 1 && to->h == job->out_width * to->w &&
                       job->out_channels % LANES == 0 && (job->sets == 1 || job->fuse == CONCAT);
    corners_t *corners = (corners_t *)floats((int64_t)(sizeof(corners_t) / 4) * job->taps);
    /* without a weight there are no columns, but the way to the corners */
    float *columns = floats(job->weight ? CHUNK * w->line : 2 * CORNERS * job->taps * CHUNK), *out = direct ? 0 : floats(job->sets * STRIP * all);
    uint8_t *which = job->winner.data ? malloc((size_t)(STRIP * all)) : 0;
    if (!corners || !columns || (!direct && !out) || (job->winner.data && !which)) w->failed = 1;
    for (int64_t task = begin; task < end && !w->failed; task++) {
        const int64_t n = task / strips(w), p = task % strips(w) * long_, m = least(long_, w->positions - p);
        for (int64_t s = 0; s < job->sets && m > 0; s++) {
            int64_t found = -1; /* the offset group whose corners are at hand */
            for (int64_t gb = 0; gb < job->groups * w->blocks; gb++) {
                const int64_t g = gb / w->blocks, b = gb % w->blocks, count = kept(w, b), set = job->own_weights ? s : 0;
                const int64_t channel = g * job->channels + first_of(w, b), part = part_of(w, g, b);
                if (part != found) find_corners(job, n, s, found = part, p, m, corners);
                const float *image = (const float *)job->input.data + n * job->input.n + channel;
                const float *bias = w->bias + ((job->fuse == CONCAT ? s * job->groups : 0) + g) * w->row;
                if (job->sets > 1 && job->fuse != CONCAT) bias = w->zeros; /* it comes once, after fusing */
                const float *weight = w->packed + (set * job->groups * w->blocks + gb) * w->panels * job->taps * w->block * COLUMNS;
                for (int64_t i = 0; i < m; i += CHUNK) {
                    const int64_t some = least(CHUNK, m - i), first = (job->fuse == CONCAT ? s * job->groups + g : g) * job->out_channels;
                    float *at = direct ? (float *)to->data + n * to->n + first + (p + i) * to->w : out + (s * m + i) * all + g * w->row;
                    const int64_t at_row = direct ? to->w : all;
                    if (!job->weight) {
                        sum_strip(w, corners, i, image, count, some, at + channel, at_row, bias + channel, (int64_t *)columns);
                        continue;
                    }
                    read_strip(w, corners, i, image, count, some, columns);
                    multiply(some, columns, w->line, weight, job->taps * count, job->out_channels, at, at_row, b ? 0 : bias);
                }
            }
        }
        if (direct || m <= 0) continue;
        if (job->fuse != CONCAT) fuse_sets(w, m, out, which);
        for (int64_t s = 0; s < (job->fuse == CONCAT ? job->sets : 1); s++)
            store_strip(w, n, p, m, s * job->groups * job->out_channels, out + s * m * all, which);
    }
    free(corners);
    free(columns);
    free(out);
    free(which);
}

/* Give a pixel its share of a tap's gradient q, and return the products of q and the pixel, to be added up. */
INLINE vec touch(const float *q, const float *p, float *to, float share, int64_t count, int wanted) {
    vec sum = {0}, one = splat(share);
    for (int64_t v = 0; v < count; v += LANES) {
        vec value = load(q + v);
        if (count - v >= LANES) {
            if (wanted) sum += value * load(p + v);
            if (to) store(to + v, load(to + v) + one * value);
        } else {
            for (int64_t k = 0; k < count - v; k++) {
                if (wanted) sum[k] += value[k] * p[v + k];
                if (to) to[v + k] += share * value[k];
            }
        }
    }
    return sum;
}

/* From the products of a gradient with the four pixels of a point: their value there, and its slopes downward and to the right. */
INLINE vec face(const vec *dot, vec down, vec right, vec *downward, vec *rightward) {
    vec left_slope = dot[2] - dot[0], right_slope = dot[3] - dot[1], top_slope = dot[1] - dot[0], low_slope = dot[3] - dot[2];
    *downward = left_slope + right * (right_slope - left_slope);
    *rightward = top_slope + down * (low_slope - top_slope);
    return dot[0] + right * top_slope + down * *downward;
}

/* The same along every axis, the first first. */
INLINE vec value_and_slopes(const vec *dot, const corners_t *c, int64_t at, vec *slope) {
    vec last = splat(c->part[DIMS - 1][at]), second = splat(c->part[DIMS - 2][at]);
#if DIMS == 2
    return face(dot, second, last, &slope[0], &slope[1]);
#else
    vec first = splat(c->part[0][at]), down[2], right[2];
    vec front = face(dot, second, last, &down[0], &right[0]), back = face(dot + 4, second, last, &down[1], &right[1]);
    slope[0] = back - front;
    slope[1] = down[0] + first * (down[1] - down[0]);
    slope[2] = right[0] + first * (right[1] - right[0]);
    return front + first * slope[0];
#endif
}

/* Turn the gradients of what was read, `back` (a row a pixel, `apart` floats from tap to tap), into those of the pixels, of the
 * offsets where `moved` is given, and, where there are masks, of these where `masked` is given. */
INLINE void scatter(const work_t *w, const corners_t *all, int64_t from, int64_t m, const float *back, int64_t row, int64_t apart,
                    const float *image, float *image_gradient, const int64_t count, float *moved, const int has_mask, float *masked) {
    const sampled_t *job = w->job;
    const int64_t step = job->input.w, to_step = job->input_gradient.w;
    for (int64_t t = 0; t < job->taps; t++) {
        const corners_t *c = all + t;
        for (int64_t i0 = 0; i0 < m; i0 += LANES) {
            const int64_t some = least(LANES, m - i0);
            vec slopes[DIMS][LANES], value[LANES];
            for (int64_t i = 0; i < some; i++) {
                const int64_t at = from + i0 + i;
                const float *q = back + (i0 + i) * row + t * apart;
                vec dot[CORNERS], slope[DIMS];
#pragma GCC unroll 8
                for (int corner = 0; corner < CORNERS; corner++) {
                    const int32_t pixel = c->at[corner][at];
                    dot[corner] = (vec){0};
                    if (pixel >= 0)
                        dot[corner] = touch(q, image + pixel * step, image_gradient ? image_gradient + pixel * to_step : 0,
                                            c->share[corner][at], count, moved || (has_mask && masked));
                }
                const vec sum = value_and_slopes(dot, c, at, slope);
                for (int axis = 0; axis < DIMS; axis++) slopes[axis][i] = slope[axis];
                if (has_mask) value[i] = sum;
            }
            if (has_mask && masked) {
                for (int64_t i = some; i < LANES; i++) value[i] = (vec){0};
                store_some(masked + t * w->positions + from + i0, 0, FLOAT32, some, total_of_rows(value));
            }
            if (!moved) continue;
            for (int axis = 0; axis < DIMS; axis++) {
                for (int64_t i = some; i < LANES; i++) slopes[axis][i] = (vec){0};
                vec total = total_of_rows(slopes[axis]);
                if (has_mask) total *= load(c->mask + from + i0);
                store_some(moved + (DIMS * t + axis) * w->positions + from + i0, 0, FLOAT32, some, total);
            }
        }
    }
}

/* The same with its constants known: each a function of its own, or the compiler would run short of registers in all. */
typedef void (*scatter_t)(const work_t *w, const corners_t *all, int64_t from, int64_t m, const float *back, int64_t row,
                          int64_t apart, const float *image, float *image_gradient, int64_t count, float *moved, float *masked);
#define SCATTER(name, known, has_mask)                                                                                            \
    static void name(const work_t *w, const corners_t *all, int64_t from, int64_t m, const float *back, int64_t row, int64_t apart, \
                     const float *image, float *image_gradient, int64_t count, float *moved, float *masked) {                       \
        (void)count;                                                                                                                \
        scatter(w, all, from, m, back, row, apart, image, image_gradient, known, moved, has_mask, masked);                          \
    }
SCATTER(scatter_64, 64, 0)
SCATTER(scatter_32, 32, 0)
SCATTER(scatter_16, 16, 0)
SCATTER(scatter_any, count, 0)
SCATTER(scatter_64_masked, 64, 1)
SCATTER(scatter_32_masked, 32, 1)
SCATTER(scatter_16_masked, 16, 1)
SCATTER(scatter_any_masked, count, 1)
#undef SCATTER

static scatter_t scatter_of(int64_t count, int has_mask) {
    if (count == 64) return has_mask ? scatter_64_masked : scatter_64;
    if (count == 32) return has_mask ? scatter_32_masked : scatter_32;
    if (count == 16) return has_mask ? scatter_16_masked : scatter_16;
    return has_mask ? scatter_any_masked : scatter_any;
}

/* A task owns one share of the batch and one block of channels, so nobody else writes where it adds. */
static void backward_blocks(int64_t begin, int64_t end, void *context) {
    work_t *w = context;
    const sampled_t *job = w->job;
    const int64_t gbs = job->groups * w->blocks, weights = job->own_weights ? job->sets : 1;
    const int through = job->input_gradient.data || job->offset_gradient.data || job->mask_gradient.data;
    corners_t *corners = (corners_t *)floats((int64_t)(sizeof(corners_t) / 4) * job->taps);
    float *columns = floats(CHUNK * w->line), *back = floats(ROWS * w->depth), *grad = floats(CHUNK * w->row);
    const map_t *from_above = &job->output;
    /* rows of whole vectors are read where they are */
    const int direct = job->weight && job->output_type == FLOAT32 && from_above->c == 1 && job->out_channels % LANES == 0 &&
                       from_above->h == job->out_width * from_above->w && !job->winner.data;
    const int64_t grad_row = direct ? from_above->w : w->row;
    float *const room = grad;
    if (!corners || !columns || !back || !room) w->failed = 1;
    for (int64_t task = begin; task < end && !w->failed; task++) {
        const int64_t slot = task / gbs, gb = task % gbs, g = gb / w->blocks, b = gb % w->blocks, count = kept(w, b);
        const int64_t channel = g * job->channels + first_of(w, b), part = part_of(w, g, b), size = w->depth * w->row;
        float *total = w->partial ? w->partial + task * weights * size : 0;
        if (total) memset(total, 0, (size_t)(weights * size) * 4);
        for (int64_t n = job->batch * slot / job->slots; n < job->batch * (slot + 1) / job->slots; n++)
            for (int64_t s = 0; s < job->sets; s++) {
                const int64_t set = job->own_weights ? s : 0;
                const float *image = (const float *)job->input.data + n * job->input.n + channel;
                float *image_gradient =
                    job->input_gradient.data ? (float *)job->input_gradient.data + n * job->input_gradient.n + channel : 0;
                const int32_t *moves = job->moves + s * job->offset_groups + part, *masks = job->masks + s * job->offset_groups + part;
                float *moved = 0, *masked = 0;
                if (w->offset_partial && *moves >= 0)
                    moved = w->offset_partial + ((gb * job->batch + n) * w->moving + placed(job, job->moves, part, s)) * DIMS * job->taps * w->positions;
                if (w->mask_partial && *masks >= 0)
                    masked = w->mask_partial + ((gb * job->batch + n) * w->masking + placed(job, job->masks, part, s)) * job->taps * w->positions;
                for (int64_t p = 0; p < w->positions; p += CHUNK) {
                    const int64_t m = least(CHUNK, w->positions - p);
                    if (direct)
                        grad = (float *)from_above->data + n * from_above->n + p * from_above->w +
                               (job->fuse == CONCAT ? s * job->groups + g : g) * job->out_channels;
                    else if (job->weight)
                        read_gradient(w, n, s, g * job->out_channels, job->out_channels, p, m, grad);
                    else
                        read_gradient(w, n, s, channel, count, p, m, grad);
                    find_corners(job, n, s, part, p, m, corners);
                    if (total) {
                        read_strip(w, corners, 0, image, count, m, columns);
                        multiply_transposed(m, columns, w->line, job->taps * count, grad, grad_row, job->out_channels,
                                            total + set * size, w->row);
                    }
                    if (!through || (!image_gradient && !moved && !masked)) continue;
                    const float *turned = w->packed_turned + (set * gbs + gb) * w->depth * job->out_channels;
                    for (int64_t i = 0; i < m; i += ROWS) {
                        const int64_t some = least(ROWS, m - i), row = job->weight ? w->depth : w->row;
                        const float *from = job->weight ? back : grad + i * grad_row; /* without a weight all taps get the same */
                        if (job->weight)
                            multiply(some, grad + i * grad_row, grad_row, turned, job->out_channels, job->taps * w->block, back,
                                     w->depth, w->zeros);
                        scatter_of(count, *masks >= 0)(w, corners, i, some, from, row, job->weight ? w->block : 0, image, image_gradient,
                                                       count, moved ? moved + p : 0, masked ? masked + p : 0);
                    }
                }
            }
    }
    free(corners);
    free(columns);
    free(back);
    free(room);
}

static void weight_total(int64_t begin, int64_t end, void *context) {
    const work_t *w = context;
    const sampled_t *job = w->job;
    const int64_t weights = job->own_weights ? job->sets : 1, gbs = job->groups * w->blocks, size = w->depth * w->row;
    const int64_t inputs = job->channels * job->taps;
    for (int64_t task = begin; task < end; task++) { /* [set, G, blocks] */
        const int64_t gb = task % gbs, b = gb % w->blocks, s = task / gbs;
        unpack_sums(w->partial + (gb * weights + s) * size, job->slots, gbs * weights * size, w->row, job->out_channels, kept(w, b),
                    job->taps, job->gradient, job->weight_type,
                    (s * job->groups + gb / w->blocks) * job->out_channels * inputs + first_of(w, b) * job->taps, inputs, job->taps);
    }
}

/* Add up, block by block, what the blocks of an offset group say of the gradient of its offsets or masks. */
static void add_parts(const work_t *w, int64_t task, const int32_t *places, int64_t most_places, int64_t channels,
                      const float *partial, const map_t *to) {
    const sampled_t *job = w->job;
    const int64_t gbs = job->groups * w->blocks, pairs = job->sets * job->offset_groups;
    int64_t count = 0, pair = 0;
    for (int64_t k = 0; k < pairs; k++) count += places[k] >= 0;
    const int64_t n = task / (count * channels), c = task % (count * channels);
    while (places[pair] != c / channels) pair++;
    const int64_t part = pair % job->offset_groups, place = placed(job, places, part, pair / job->offset_groups);
    const int64_t at = ((n * most_places + place) * channels + c % channels) * w->positions;
    const int64_t size = job->batch * most_places * channels * w->positions;
    int64_t first = 0, end = gbs; /* channels are in order, so the blocks of an offset group lie side by side */
    while (part_of(w, first / w->blocks, first % w->blocks) < part) first++;
    while (part_of(w, (end - 1) / w->blocks, (end - 1) % w->blocks) > part) end--;
    for (int64_t y = 0; y < job->out_height; y++) {
        float *row = (float *)to->data + n * to->n + c * to->c + y * to->h;
        for (int64_t x = 0; x < job->out_width; x++) row[x * to->w] = 0;
        for (int64_t gb = first; gb < end; gb++) {
            const float *one = partial + gb * size + at + y * job->out_width;
            if (to->w == 1)
                for (int64_t x = 0; x < job->out_width; x++) row[x] += one[x];
            else
                for (int64_t x = 0; x < job->out_width; x++) row[x * to->w] += one[x];
        }
    }
}

static void offset_total(int64_t begin, int64_t end, void *context) { /* [N, D*DIMS*T] */
    const work_t *w = context;
    for (int64_t task = begin; task < end; task++)
        add_parts(w, task, w->job->moves, w->moving, DIMS * w->job->taps, w->offset_partial, &w->job->offset_gradient);
}

static void mask_total(int64_t begin, int64_t end, void *context) { /* [N, M*T] */
    const work_t *w = context;
    for (int64_t task = begin; task < end; task++)
        add_parts(w, task, w->job->masks, w->masking, w->job->taps, w->mask_partial, &w->job->mask_gradient);
}

/* How many sets and offset groups have a place. */
static int64_t all_placed(const sampled_t *job, const int32_t *places) {
    int64_t count = 0;
    for (int64_t part = 0; part < job->offset_groups; part++) count += placed(job, places, part, job->sets);
    return count;
}

/* Each returns 0, or 1 when there was no memory. The job may be shared by calls that run at the same time. */
int FOVEAL(sampled_forward)(const sampled_t *shared, void *input, const void *weight, const float *tap, const void *bias,
                            void *offset, void *mask, void *output, void *winner) {
    sampled_t job = *shared;
    job.input.data = input, job.weight = weight, job.tap = tap, job.bias = bias, job.offset.data = offset, job.mask.data = mask;
    job.output.data = output, job.winner.data = winner;
    work_t w;
    begin_work(&job, &w);
    const int64_t packs = weight ? (job.own_weights ? job.sets : 1) * job.groups * w.blocks : 0;
    if (packs) w.packed = borrow(packs * w.panels * job.taps * w.block * COLUMNS);
    w.zeros = calloc((size_t)w.row, 4);
    int failed = (packs && !w.packed) || !w.zeros || !bring_bias(&w);
    if (!failed) {
        parallel(packs, pack_weight, &w);
        parallel(job.batch * strips(&w), forward_strips, &w);
    }
    give_back(w.packed);
    free(w.zeros);
    free(w.bias);
    return failed || w.failed;
}

/* The gradients that are wanted have an address; that of the input is zeroed. */
int FOVEAL(sampled_backward)(const sampled_t *shared, void *input, const void *weight, const float *tap, void *offset, void *mask,
                             void *grad, void *winner, void *input_gradient, void *gradient, void *offset_gradient,
                             void *mask_gradient) {
    sampled_t job = *shared;
    job.input.data = input, job.weight = weight, job.tap = tap, job.offset.data = offset, job.mask.data = mask;
    job.output.data = grad, job.winner.data = winner;
    job.input_gradient.data = input_gradient, job.gradient = gradient, job.offset_gradient.data = offset_gradient;
    job.mask_gradient.data = mask_gradient;
    work_t w;
    begin_work(&job, &w);
    const int64_t gbs = job.groups * w.blocks, weights = job.own_weights ? job.sets : 1, packs = weight ? weights * gbs : 0;
    if (packs) w.packed_turned = borrow(packs * w.depth * job.out_channels);
    w.zeros = calloc((size_t)w.depth, 4);
    if (gradient) w.partial = floats(job.slots * gbs * weights * w.depth * w.row);
    if (offset_gradient) w.offset_partial = floats(gbs * job.batch * w.moving * DIMS * job.taps * w.positions);
    if (mask_gradient) w.mask_partial = floats(gbs * job.batch * w.masking * job.taps * w.positions);
    int failed = (packs && !w.packed_turned) || !w.zeros || (gradient && !w.partial) || (offset_gradient && !w.offset_partial) ||
                 (mask_gradient && !w.mask_partial);
    if (!failed) {
        parallel(packs, pack_weight, &w);
        parallel(job.slots * gbs, backward_blocks, &w);
        if (w.partial) parallel(packs, weight_total, &w);
        if (w.offset_partial) parallel(job.batch * all_placed(&job, job.moves) * DIMS * job.taps, offset_total, &w);
        if (w.mask_partial) parallel(job.batch * all_placed(&job, job.masks) * job.taps, mask_total, &w);
    }
    give_back(w.packed_turned);
    free(w.zeros);
    free(w.partial);
    free(w.offset_partial);
    free(w.mask_partial);
    return failed || w.failed;
}
