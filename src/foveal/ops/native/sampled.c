/* Sampled convolution: every tap reads its four pixels, a strip of output pixels at a time, and a matrix product follows.
 *
 * The input is float32 with its channels innermost; offsets and gradients of offsets are float32 in any layout. */
#include <math.h>

#include "kernels.h"

typedef struct {
    map_t input, output;     /* [N, G*C, H, W] channels innermost, float32; [N, G*O (or S*G*O), H', W'] */
    map_t offset, winner;    /* [N, D*2*T, H', W'] float32; uint8 as output, for a maximum of several sets */
    map_t input_gradient;    /* float32, zeroed, channels innermost, as input; data NULL where not wanted */
    map_t offset_gradient;   /* [N, D*2*T, H', W'] float32; data NULL where not wanted */
    int32_t output_type, weight_type, fuse, own_weights; /* bias and gradient of the weight have the weight's type */
    int64_t batch, groups, channels, out_channels;       /* channels of one group */
    int64_t height, width, out_height, out_width;
    int64_t stride[2];
    int64_t sets, taps;
    const int32_t *moves; /* [S]: which of the D sets of offsets, or -1 */
    int64_t slots;        /* shares of the batch in the backward pass, fixed whatever the threads */
    const float *tap;     /* [S, T, 2] */
    const void *weight;   /* [S or 1, G*O, C, T] */
    const void *bias;     /* as output channels, or NULL */
    void *gradient;       /* of the weight, or NULL */
} sampled_t;

enum { MAX = 0, SUM = 1, CONCAT = 2 };
enum { STRIP = 8 * ROWS, CHUNK = 4 * ROWS }; /* pixels whose corners, and whose columns, are held together */
enum { FAR_OFF = 1 << 29 }; /* pixels: beyond any map, and twice as far is still an int32 */
static const float FAR_AWAY = FAR_OFF;
static const float ZEROS[64] __attribute__((aligned(64))) = {0};

/* The four pixels that one tap reads at each position of a strip: pixel numbers (-1 outside), shares, fractions. */
typedef struct {
    int32_t at[4][STRIP];
    float share[4][STRIP];
    float down[STRIP], right[STRIP];
} corners_t;

typedef struct {
    const sampled_t *job;
    int64_t block, blocks, panels, row; /* channels at once, whole vectors; row = panels * COLUMNS */
    int64_t depth, line;                /* taps * block, whole panels of it; floats between the columns of pixels */
    int64_t positions;                  /* H' * W' */
    float *packed;                      /* [S or 1, G, blocks, panels, taps * channels, COLUMNS] */
    float *packed_turned;               /* [S or 1, G, blocks, depth / COLUMNS, O, COLUMNS] */
    float *bias, *zeros;                /* [S or 1, G, row]; a row or a depth of zeros */
    float *partial;                     /* [slots, G, blocks, S or 1, depth, row] */
    float *offset_partial;              /* [G, blocks, N, D*2*T, H', W'] */
    int64_t moving;                     /* D */
    int failed;
} work_t;

static void begin_work(const sampled_t *job, work_t *w) {
    memset(w, 0, sizeof *w);
    w->job = job;
    /* a task of the backward pass owns a block of channels: of one image there are more when they are small */
    const int64_t widest = job->batch > 1 ? 64 : 32;
    for (w->block = LANES; w->block < widest && w->block < job->channels;) w->block *= 2;
    w->blocks = ceil_div(job->channels, w->block);
    w->panels = ceil_div(job->out_channels, COLUMNS);
    w->row = w->panels * COLUMNS;
    w->depth = up(job->taps * w->block, COLUMNS);
    w->line = w->depth;
    w->positions = job->out_height * job->out_width;
    for (int64_t s = 0; s < job->sets; s++) w->moving += job->moves[s] >= 0;
}

static int64_t kept(const work_t *w, int64_t b) { return least(w->block, w->job->channels - b * w->block); }

/* The m positions from number p of an image on, row by row: FOR_ROWS names the run, its start i in the strip, y and x. */
#define FOR_ROWS(p, m)                                                                                        \
    for (int64_t i = 0, run, y, x; i < (m) && (y = ((p) + i) / job->out_width, x = ((p) + i) % job->out_width, \
                                               run = least(job->out_width - x, (m) - i), 1);                   \
         i += run)

static void find_corners(const sampled_t *job, int64_t n, int64_t set, int64_t p, int64_t m, corners_t *all) {
    const int32_t height = (int32_t)job->height, width = (int32_t)job->width;
    int32_t top[STRIP], left[STRIP];
    FOR_ROWS(p, m) {
        const int32_t down = (int32_t)least(y * job->stride[0], FAR_OFF);
        for (int64_t j = 0; j < run; j++) {
            top[i + j] = down;
            left[i + j] = (int32_t)least((x + j) * job->stride[1], FAR_OFF);
        }
    }
    for (int64_t t = 0; t < job->taps; t++) {
        corners_t *c = all + t;
        const float *tap = job->tap + (set * job->taps + t) * 2;
        float py[STRIP], px[STRIP];
        for (int64_t i = 0; i < m; i++) py[i] = tap[0], px[i] = tap[1];
        if (job->moves[set] >= 0) {
            const map_t *o = &job->offset;
            const float *image = (const float *)o->data + n * o->n + (job->moves[set] * job->taps + t) * 2 * o->c;
            FOR_ROWS(p, m) {
                const float *from = image + y * o->h + x * o->w;
                if (o->w == 1)
                    for (int64_t j = 0; j < run; j++) py[i + j] += from[j], px[i + j] += from[j + o->c];
                else
                    for (int64_t j = 0; j < run; j++) py[i + j] += from[j * o->w], px[i + j] += from[j * o->w + o->c];
            }
        }
        for (int32_t i = 0; i < (int32_t)m; i++) {
            float v = py[i], u = px[i];
            v = v < -FAR_AWAY ? -FAR_AWAY : v > FAR_AWAY ? FAR_AWAY : v;
            u = u < -FAR_AWAY ? -FAR_AWAY : u > FAR_AWAY ? FAR_AWAY : u;
            /* a NaN reads nothing, and its shares are NaN */
            float fv = floorf(v == v ? v : -FAR_AWAY), fu = floorf(u == u ? u : -FAR_AWAY);
            float a = v - fv, b = u - fu;
            int32_t r = top[i] + (int32_t)fv, q = left[i] + (int32_t)fu;
            int r0 = (r >= 0) & (r < height), r1 = (r >= -1) & (r < height - 1);
            int q0 = (q >= 0) & (q < width), q1 = (q >= -1) & (q < width - 1);
            c->at[0][i] = r0 & q0 ? r * width + q : -1;
            c->at[1][i] = r0 & q1 ? r * width + q + 1 : -1;
            c->at[2][i] = r1 & q0 ? (r + 1) * width + q : -1;
            c->at[3][i] = r1 & q1 ? (r + 1) * width + q + 1 : -1;
            c->share[0][i] = (1 - a) * (1 - b);
            c->share[1][i] = (1 - a) * b;
            c->share[2][i] = a * (1 - b);
            c->share[3][i] = a * b;
            c->down[i] = a;
            c->right[i] = b;
        }
    }
}

INLINE const float *pixel(const float *image, int64_t step, int32_t at) { return at < 0 ? ZEROS : image + at * step; }

INLINE void blend(const corners_t *c, int64_t i, const float *image, int64_t step, const int vectors, float *out) {
    const float *p0 = pixel(image, step, c->at[0][i]), *p1 = pixel(image, step, c->at[1][i]);
    const float *p2 = pixel(image, step, c->at[2][i]), *p3 = pixel(image, step, c->at[3][i]);
    vec s0 = splat(c->share[0][i]), s1 = splat(c->share[1][i]), s2 = splat(c->share[2][i]), s3 = splat(c->share[3][i]);
#pragma GCC unroll 8
    for (int v = 0; v < vectors * LANES; v += LANES)
        store(out + v, s0 * load(p0 + v) + s1 * load(p1 + v) + s2 * load(p2 + v) + s3 * load(p3 + v));
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
        } else {
            for (int64_t i = from; i < from + m; i++) {
                const float *p0 = pixel(image, step, c->at[0][i]), *p1 = pixel(image, step, c->at[1][i]);
                const float *p2 = pixel(image, step, c->at[2][i]), *p3 = pixel(image, step, c->at[3][i]);
                float s0 = c->share[0][i], s1 = c->share[1][i], s2 = c->share[2][i], s3 = c->share[3][i];
                for (int64_t k = 0; k < count; k++) out[(i - from) * w->line + k] = s0 * p0[k] + s1 * p1[k] + s2 * p2[k] + s3 * p3[k];
            }
        }
#undef BLEND
    }
}

/* weight -> [set, G, blocks, panels, taps * channels, COLUMNS], or turned [set, G, blocks, depth / COLUMNS, O, COLUMNS]. */
static void pack_weight(int64_t begin, int64_t end, void *context) {
    const work_t *w = context;
    const sampled_t *job = w->job;
    const int64_t taps = job->taps, outs = job->out_channels, out_step = job->channels * taps;
    const int64_t size = (job->own_weights ? job->sets : 1) * job->groups * outs * out_step;
    for (int64_t task = begin; task < end; task++) {
        const int64_t b = task % w->blocks, first = task / w->blocks * outs * out_step + b * w->block * taps;
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

static int bring_bias(work_t *w) {
    const sampled_t *job = w->job;
    const int64_t rows = (job->fuse == CONCAT ? job->sets : 1) * job->groups;
    w->bias = floats(rows * w->row);
    if (!w->bias) return 0;
    memset(w->bias, 0, (size_t)(rows * w->row) * 4);
    for (int64_t i = 0; job->bias && i < rows * job->out_channels; i++)
        w->bias[i / job->out_channels * w->row + i % job->out_channels] = get(job->bias, i, job->weight_type);
    return 1;
}

/* Fuse the sets of a strip, [sets, m, G * row], into the first, with the bias, and say which won. */
static void fuse_sets(const work_t *w, int64_t m, float *out, uint8_t *which) {
    const sampled_t *job = w->job;
    const int64_t all = job->groups * w->row;
    if (which) memset(which, 0, (size_t)(m * all));
    for (int64_t s = 1; s < job->sets; s++) {
        const float *other = out + s * m * all;
        if (job->fuse == SUM)
            for (int64_t i = 0; i < m * all; i++) out[i] += other[i];
        else
            for (int64_t i = 0; i < m * all; i++) {
                float a = out[i], b = other[i];
                int better = (b > a) | ((b != b) & (a == a)); /* a NaN wins, ties stay */
                out[i] = better ? b : a;
                which[i] = better ? (uint8_t)s : which[i];
            }
    }
    for (int64_t i = 0; job->bias && job->sets > 1 && i < m; i++)
        for (int64_t o = 0; o < all; o++) out[i * all + o] += w->bias[o];
}

/* Write m pixels of a strip, [m, G * row], as output channels from `channel` on. */
static void store_strip(const work_t *w, int64_t n, int64_t p, int64_t m, int64_t channel, const float *out,
                        const uint8_t *which) {
    const sampled_t *job = w->job;
    const map_t *to = &job->output, *won = &job->winner;
    const int64_t outs = job->out_channels, all = job->groups * w->row;
    for (int64_t g = 0; g < job->groups; g++, channel += outs)
        FOR_ROWS(p, m) {
            write_pixels(to->data, n * to->n + channel * to->c + y * to->h + x * to->w, to->w, to->c, job->output_type, run, outs,
                         out + i * all + g * w->row, all);
            if (!which) continue;
            uint8_t *mine = (uint8_t *)won->data + n * won->n + channel * won->c + y * won->h + x * won->w;
            const uint8_t *from = which + i * all + g * w->row;
            if (won->c == 1)
                for (int64_t j = 0; j < run; j++) memcpy(mine + j * won->w, from + j * all, (size_t)outs);
            else
                for (int64_t o = 0; o < outs; o++)
                    for (int64_t j = 0; j < run; j++) mine[o * won->c + j * won->w] = from[j * all + o];
        }
}

/* Strips of an image, of nearly the same length. */
static int64_t strips(const work_t *w) { return ceil_div(w->positions, STRIP); }

static void forward_strips(int64_t begin, int64_t end, void *context) {
    work_t *w = context;
    const sampled_t *job = w->job;
    const map_t *to = &job->output;
    const int64_t all = job->groups * w->row, long_ = ceil_div(ceil_div(w->positions, strips(w)), ROWS) * ROWS;
    const int direct = job->output_type == FLOAT32 && to->c == 1 && to->h == job->out_width * to->w &&
                       job->out_channels % LANES == 0 && (job->sets == 1 || job->fuse == CONCAT);
    corners_t *corners = (corners_t *)floats((int64_t)(sizeof(corners_t) / 4) * job->taps);
    float *columns = floats(CHUNK * w->line), *out = direct ? 0 : floats(job->sets * STRIP * all);
    uint8_t *which = job->winner.data ? malloc((size_t)(STRIP * all)) : 0;
    if (!corners || !columns || (!direct && !out) || (job->winner.data && !which)) w->failed = 1;
    for (int64_t task = begin; task < end && !w->failed; task++) {
        const int64_t n = task / strips(w), p = task % strips(w) * long_, m = least(long_, w->positions - p);
        for (int64_t s = 0; s < job->sets && m > 0; s++) {
            find_corners(job, n, s, p, m, corners);
            for (int64_t gb = 0; gb < job->groups * w->blocks; gb++) {
                const int64_t g = gb / w->blocks, b = gb % w->blocks, count = kept(w, b), set = job->own_weights ? s : 0;
                const float *image = (const float *)job->input.data + n * job->input.n + g * job->channels + b * w->block;
                const float *weight = w->packed + (set * job->groups * w->blocks + gb) * w->panels * job->taps * w->block * COLUMNS;
                const float *bias = w->bias + ((job->fuse == CONCAT ? s * job->groups : 0) + g) * w->row;
                if (job->sets > 1 && job->fuse != CONCAT) bias = w->zeros; /* it comes once, after fusing */
                for (int64_t i = 0; i < m; i += CHUNK) {
                    const int64_t some = least(CHUNK, m - i), first = (job->fuse == CONCAT ? s * job->groups + g : g) * job->out_channels;
                    float *at = direct ? (float *)to->data + n * to->n + first + (p + i) * to->w : out + (s * m + i) * all + g * w->row;
                    read_strip(w, corners, i, image, count, some, columns);
                    multiply(some, columns, w->line, weight, job->taps * count, job->out_channels, at, direct ? to->w : all,
                             b ? 0 : bias);
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

/* What a strip of the gradient of the output says of set s and group g: [m, row], zero where another set won. */
static void read_gradient(const work_t *w, int64_t n, int64_t s, int64_t g, int64_t p, int64_t m, float *grad) {
    const sampled_t *job = w->job;
    const map_t *from = &job->output, *won = &job->winner;
    const int64_t outs = job->out_channels, first = (job->fuse == CONCAT ? s * job->groups + g : g) * outs;
    FOR_ROWS(p, m) {
        float *to = grad + i * w->row;
        read_pixels(from->data, n * from->n + first * from->c + y * from->h + x * from->w, from->w, from->c, job->output_type, run,
                    outs, w->row, to, w->row);
        if (!won->data) continue;
        const uint8_t *win = (const uint8_t *)won->data + n * won->n + first * won->c + y * won->h + x * won->w;
        for (int64_t j = 0; j < run; j++) {
            float *line = to + j * w->row;
            if (won->c == 1)
                for (int64_t o = 0; o < outs; o++) line[o] = win[j * won->w + o] == s ? line[o] : 0;
            else
                for (int64_t o = 0; o < outs; o++) line[o] = win[j * won->w + o * won->c] == s ? line[o] : 0;
        }
    }
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

/* Turn the gradients of what was read, `back` [m, depth], into those of the pixels, and of the offsets where `moved` is given. */
INLINE void scatter(const work_t *w, const corners_t *all, int64_t from, int64_t m, const float *back, const float *image,
                    float *image_gradient, const int64_t count, float *moved) {
    const sampled_t *job = w->job;
    const int64_t step = job->input.w, to_step = job->input_gradient.w;
    for (int64_t t = 0; t < job->taps; t++) {
        const corners_t *c = all + t;
        for (int64_t i0 = 0; i0 < m; i0 += LANES) {
            const int64_t some = least(LANES, m - i0);
            vec downward[LANES], rightward[LANES];
            for (int64_t i = 0; i < some; i++) {
                const int64_t at = from + i0 + i;
                const float *q = back + (i0 + i) * w->depth + t * w->block;
                vec dot[4];
#pragma GCC unroll 4
                for (int corner = 0; corner < 4; corner++) {
                    const int32_t pixel = c->at[corner][at];
                    dot[corner] = (vec){0};
                    if (pixel >= 0)
                        dot[corner] = touch(q, image + pixel * step, image_gradient ? image_gradient + pixel * to_step : 0,
                                            c->share[corner][at], count, moved != 0);
                }
                vec left_slope = dot[2] - dot[0], right_slope = dot[3] - dot[1];
                vec top_slope = dot[1] - dot[0], low_slope = dot[3] - dot[2];
                downward[i] = left_slope + splat(c->right[at]) * (right_slope - left_slope);
                rightward[i] = top_slope + splat(c->down[at]) * (low_slope - top_slope);
            }
            if (!moved) continue;
            for (int64_t i = some; i < LANES; i++) downward[i] = rightward[i] = (vec){0};
            float *to = moved + 2 * t * w->positions + from + i0;
            store_some(to, 0, FLOAT32, some, total_of_rows(downward));
            store_some(to, w->positions, FLOAT32, some, total_of_rows(rightward));
        }
    }
}

/* A task owns one share of the batch and one block of channels, so nobody else writes where it adds. */
static void backward_blocks(int64_t begin, int64_t end, void *context) {
    work_t *w = context;
    const sampled_t *job = w->job;
    const int64_t gbs = job->groups * w->blocks, weights = job->own_weights ? job->sets : 1;
    const int through = job->input_gradient.data || job->offset_gradient.data;
    corners_t *corners = (corners_t *)floats((int64_t)(sizeof(corners_t) / 4) * job->taps);
    float *columns = floats(CHUNK * w->line), *back = floats(ROWS * w->depth), *grad = floats(CHUNK * w->row);
    if (!corners || !columns || !back || !grad) w->failed = 1;
    for (int64_t task = begin; task < end && !w->failed; task++) {
        const int64_t slot = task / gbs, gb = task % gbs, g = gb / w->blocks, b = gb % w->blocks, count = kept(w, b);
        const int64_t channel = g * job->channels + b * w->block, size = w->depth * w->row;
        float *total = w->partial ? w->partial + task * weights * size : 0;
        if (total) memset(total, 0, (size_t)(weights * size) * 4);
        for (int64_t n = job->batch * slot / job->slots; n < job->batch * (slot + 1) / job->slots; n++)
            for (int64_t s = 0; s < job->sets; s++) {
                const int64_t set = job->own_weights ? s : 0;
                const float *image = (const float *)job->input.data + n * job->input.n + channel;
                float *image_gradient =
                    job->input_gradient.data ? (float *)job->input_gradient.data + n * job->input_gradient.n + channel : 0;
                float *moved = w->offset_partial && job->moves[s] >= 0
                                   ? w->offset_partial + ((gb * job->batch + n) * w->moving + job->moves[s]) * 2 * job->taps * w->positions
                                   : 0;
                for (int64_t p = 0; p < w->positions; p += CHUNK) {
                    const int64_t m = least(CHUNK, w->positions - p);
                    read_gradient(w, n, s, g, p, m, grad);
                    find_corners(job, n, s, p, m, corners);
                    if (total) {
                        read_strip(w, corners, 0, image, count, m, columns);
                        multiply_transposed(m, columns, w->line, job->taps * count, grad, w->row, job->out_channels,
                                            total + set * size, w->row);
                    }
                    if (!through || (!image_gradient && !moved)) continue;
                    const float *turned = w->packed_turned + (set * gbs + gb) * w->depth * job->out_channels;
                    for (int64_t i = 0; i < m; i += ROWS) {
                        const int64_t some = least(ROWS, m - i);
                        multiply(some, grad + i * w->row, w->row, turned, job->out_channels, w->depth, back, w->depth, w->zeros);
                        float *from_here = moved ? moved + p : 0;
                        if (count == 64)
                            scatter(w, corners, i, some, back, image, image_gradient, 64, from_here);
                        else if (count == 32)
                            scatter(w, corners, i, some, back, image, image_gradient, 32, from_here);
                        else
                            scatter(w, corners, i, some, back, image, image_gradient, count, from_here);
                    }
                }
            }
    }
    free(corners);
    free(columns);
    free(back);
    free(grad);
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
                    (s * job->groups + gb / w->blocks) * job->out_channels * inputs + b * w->block * job->taps, inputs, job->taps);
    }
}

static void offset_total(int64_t begin, int64_t end, void *context) {
    const work_t *w = context;
    const sampled_t *job = w->job;
    const int64_t gbs = job->groups * w->blocks, channels = w->moving * 2 * job->taps, size = job->batch * channels * w->positions;
    const map_t *to = &job->offset_gradient;
    for (int64_t task = begin; task < end; task++) { /* [N, channel] */
        int64_t n = task / channels, c = task % channels;
        for (int64_t y = 0; y < job->out_height; y++)
            for (int64_t x = 0; x < job->out_width; x++) {
                float sum = 0;
                for (int64_t gb = 0; gb < gbs; gb++)
                    sum += w->offset_partial[gb * size + (task * job->out_height + y) * job->out_width + x];
                ((float *)to->data)[n * to->n + c * to->c + y * to->h + x * to->w] = sum;
            }
    }
}

/* Each returns 0, or 1 when there was no memory. The job may be shared by calls that run at the same time. */
int FOVEAL(sampled_forward)(const sampled_t *shared, void *input, const void *weight, const float *tap, const void *bias,
                            void *offset, void *output, void *winner) {
    sampled_t job = *shared;
    job.input.data = input, job.weight = weight, job.tap = tap, job.bias = bias, job.offset.data = offset;
    job.output.data = output, job.winner.data = winner;
    work_t w;
    begin_work(&job, &w);
    const int64_t packs = (job.own_weights ? job.sets : 1) * job.groups * w.blocks;
    w.packed = borrow(packs * w.panels * job.taps * w.block * COLUMNS);
    w.zeros = calloc((size_t)w.row, 4);
    int failed = !w.packed || !w.zeros || !bring_bias(&w);
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
int FOVEAL(sampled_backward)(const sampled_t *shared, void *input, const void *weight, const float *tap, void *offset, void *grad,
                             void *winner, void *input_gradient, void *gradient, void *offset_gradient) {
    sampled_t job = *shared;
    job.input.data = input, job.weight = weight, job.tap = tap, job.offset.data = offset;
    job.output.data = grad, job.winner.data = winner;
    job.input_gradient.data = input_gradient, job.gradient = gradient, job.offset_gradient.data = offset_gradient;
    work_t w;
    begin_work(&job, &w);
    const int64_t gbs = job.groups * w.blocks, weights = job.own_weights ? job.sets : 1, packs = weights * gbs;
    w.packed_turned = borrow(packs * w.depth * job.out_channels);
    w.zeros = calloc((size_t)w.depth, 4);
    if (gradient) w.partial = floats(job.slots * gbs * weights * w.depth * w.row);
    if (offset_gradient) w.offset_partial = floats(gbs * job.batch * w.moving * 2 * job.taps * w.positions);
    int failed = !w.packed_turned || !w.zeros || (gradient && !w.partial) || (offset_gradient && !w.offset_partial);
    if (!failed) {
        parallel(packs, pack_weight, &w);
        parallel(job.slots * gbs, backward_blocks, &w);
        if (w.partial) parallel(packs, weight_total, &w);
        if (w.offset_partial) parallel(job.batch * w.moving * 2 * job.taps, offset_total, &w);
    }
    give_back(w.packed_turned);
    free(w.zeros);
    free(w.partial);
    free(w.offset_partial);
    return failed || w.failed;
}
