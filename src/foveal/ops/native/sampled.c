/* Sampled convolution: every tap reads its four pixels, a strip of output pixels at a time, and a matrix product follows.
 *
 * The input is float32 with its channels innermost; offsets and gradients of offsets are float32 in any layout. */
#include <math.h>

#include "kernels.h"

typedef struct {
    map_t input, output;     /* [N, G*C, H, W] channels innermost, float32; [N, G*O (or S*G*O), H', W'] */
    map_t offset, winner;    /* [N, D*2*T, H', W'] float32; uint8 as output, for a maximum of several sets */
    int32_t output_type, fuse;
    int64_t batch, groups, channels, out_channels; /* channels of one group */
    int64_t height, width, out_height, out_width;
    int64_t stride[2];
    int64_t sets, taps, own_weights;
    const float *tap;     /* [S, T, 2] */
    const int32_t *moves; /* [S]: which of the D sets of offsets, or -1 */
    const float *weight;  /* [S or 1, G*O, C, T] */
    const float *bias;    /* as output channels, or NULL */
    map_t input_gradient;  /* float32, zeroed, channels innermost; data NULL where not wanted */
    map_t offset_gradient; /* as offset; data NULL where not wanted */
    float *gradient;       /* of the weight, or NULL */
    int64_t slots;         /* shares of the batch in the backward pass, fixed whatever the threads */
} sampled_t;

enum { MAX = 0, SUM = 1, CONCAT = 2 };
enum { BLOCK = 32, VECTORS = BLOCK / LANES };
enum { STRIP = 4 * ROWS };
enum { FAR_OFF = 1 << 29 }; /* pixels: beyond any map, and twice as far is still an int32 */
static const float FAR_AWAY = FAR_OFF;
static const float ZEROS[BLOCK] __attribute__((aligned(64))) = {0};

/* The four pixels that one tap reads at each position of a strip: pixel numbers (-1 outside), shares, fractions. */
typedef struct {
    int32_t at[4][STRIP];
    float share[4][STRIP];
    float down[STRIP], right[STRIP];
} corners_t;

typedef struct {
    const sampled_t *job;
    int64_t blocks, panels, depth, row; /* depth = taps * BLOCK; row = panels * COLUMNS */
    int64_t turned;                     /* panels of COLUMNS in depth, for the turned weight */
    float *packed;                      /* [S or 1, G, blocks, panels, depth, COLUMNS] */
    float *packed_turned;               /* [S or 1, G, blocks, turned, O, COLUMNS] */
    float *partial;                     /* [slots, G, blocks, S or 1, depth, row] */
    float *offset_partial;              /* [G, blocks, N, D*2*T, H', W'] */
    int64_t moving;                     /* D */
    int failed;
} work_t;

static void begin_work(const sampled_t *job, work_t *w) {
    memset(w, 0, sizeof *w);
    w->job = job;
    w->blocks = (job->channels + BLOCK - 1) / BLOCK;
    w->panels = (job->out_channels + COLUMNS - 1) / COLUMNS;
    w->depth = job->taps * BLOCK;
    w->row = w->panels * COLUMNS;
    w->turned = w->depth / COLUMNS;
    for (int64_t s = 0; s < job->sets; s++) w->moving += job->moves[s] >= 0;
}

static void find_corners(const sampled_t *job, int64_t n, int64_t set, int64_t y, int64_t x0, int64_t m, corners_t *all) {
    const int32_t height = (int32_t)job->height, width = (int32_t)job->width;
    const int32_t top = (int32_t)least(y * job->stride[0], FAR_OFF);
    int32_t left[STRIP];
    for (int64_t i = 0; i < m; i++) left[i] = (int32_t)least((x0 + i) * job->stride[1], FAR_OFF);
    for (int64_t t = 0; t < job->taps; t++) {
        corners_t *c = all + t;
        const float *tap = job->tap + (set * job->taps + t) * 2;
        float py[STRIP], px[STRIP];
        for (int64_t i = 0; i < m; i++) py[i] = tap[0], px[i] = tap[1];
        if (job->moves[set] >= 0) {
            const map_t *o = &job->offset;
            int64_t channel = (job->moves[set] * job->taps + t) * 2;
            const float *from = (const float *)o->data + n * o->n + channel * o->c + y * o->h + x0 * o->w;
            for (int64_t i = 0; i < m; i++) py[i] += from[i * o->w], px[i] += from[i * o->w + o->c];
        }
        for (int32_t i = 0; i < (int32_t)m; i++) {
            float v = py[i], u = px[i];
            v = v < -FAR_AWAY ? -FAR_AWAY : v > FAR_AWAY ? FAR_AWAY : v;
            u = u < -FAR_AWAY ? -FAR_AWAY : u > FAR_AWAY ? FAR_AWAY : u;
            /* a NaN reads nothing, and its shares are NaN */
            float fv = floorf(v == v ? v : -FAR_AWAY), fu = floorf(u == u ? u : -FAR_AWAY);
            float a = v - fv, b = u - fu;
            int32_t r = top + (int32_t)fv, q = left[i] + (int32_t)fu;
            int r0 = r >= 0 && r < height, r1 = r >= -1 && r < height - 1;
            int q0 = q >= 0 && q < width, q1 = q >= -1 && q < width - 1;
            c->at[0][i] = r0 && q0 ? r * width + q : -1;
            c->at[1][i] = r0 && q1 ? r * width + q + 1 : -1;
            c->at[2][i] = r1 && q0 ? (r + 1) * width + q : -1;
            c->at[3][i] = r1 && q1 ? (r + 1) * width + q + 1 : -1;
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

/* Blend a block of channels of every tap, from position `from` of the strip on: columns [m, taps * BLOCK]. `count` channels
 * of the block exist. */
static void read_strip(const work_t *w, const corners_t *all, int64_t from, const float *image, int64_t count, int64_t m,
                       float *columns) {
    const sampled_t *job = w->job;
    const int64_t step = job->input.w;
    for (int64_t t = 0; t < job->taps; t++) {
        const corners_t *c = all + t;
        for (int64_t i = from; i < from + m; i++) {
            float *out = columns + (i - from) * w->depth + t * BLOCK;
            const float *p0 = pixel(image, step, c->at[0][i]), *p1 = pixel(image, step, c->at[1][i]);
            const float *p2 = pixel(image, step, c->at[2][i]), *p3 = pixel(image, step, c->at[3][i]);
            if (count == BLOCK) {
                vec s0 = splat(c->share[0][i]), s1 = splat(c->share[1][i]), s2 = splat(c->share[2][i]), s3 = splat(c->share[3][i]);
#pragma GCC unroll 8
                for (int v = 0; v < VECTORS; v++)
                    store(out + v * LANES, s0 * load(p0 + v * LANES) + s1 * load(p1 + v * LANES) + s2 * load(p2 + v * LANES) +
                                               s3 * load(p3 + v * LANES));
            } else {
                float s0 = c->share[0][i], s1 = c->share[1][i], s2 = c->share[2][i], s3 = c->share[3][i];
                for (int64_t k = 0; k < count; k++) out[k] = s0 * p0[k] + s1 * p1[k] + s2 * p2[k] + s3 * p3[k];
                memset(out + count, 0, (size_t)(BLOCK - count) * 4);
            }
        }
    }
}

/* weight -> [set, G, blocks, panels, depth, COLUMNS] and, turned, [set, G, blocks, depth / COLUMNS, O, COLUMNS]. */
static void pack_weight(int64_t begin, int64_t end, void *context) {
    work_t *w = context;
    const sampled_t *job = w->job;
    for (int64_t task = begin; task < end; task++) {
        int64_t b = task % w->blocks, g = task / w->blocks % job->groups, s = task / w->blocks / job->groups;
        int64_t count = least(BLOCK, job->channels - b * BLOCK);
        float *to = w->packed ? w->packed + task * w->panels * w->depth * COLUMNS : 0;
        if (to) memset(to, 0, (size_t)(w->panels * w->depth * COLUMNS) * 4);
        float *turned = w->packed_turned ? w->packed_turned + task * w->turned * job->out_channels * COLUMNS : 0;
        if (turned) memset(turned, 0, (size_t)(w->turned * job->out_channels * COLUMNS) * 4);
        for (int64_t o = 0; o < job->out_channels; o++) {
            const float *from = job->weight + (((s * job->groups + g) * job->out_channels + o) * job->channels + b * BLOCK) * job->taps;
            float *panel = to ? to + o / COLUMNS * w->depth * COLUMNS + o % COLUMNS : 0;
            for (int64_t k = 0; k < count; k++)
                for (int64_t t = 0; t < job->taps; t++) {
                    int64_t at = t * BLOCK + k;
                    if (panel) panel[at * COLUMNS] = from[k * job->taps + t];
                    if (turned) turned[(at / COLUMNS * job->out_channels + o) * COLUMNS + at % COLUMNS] = from[k * job->taps + t];
                }
        }
    }
}

/* Fuse the sets of a strip, [sets, STRIP, G * row], and write it out with the bias. */
static void store_strip(const work_t *w, int64_t n, int64_t y, int64_t x0, int64_t m, float *out, uint8_t *which) {
    const sampled_t *job = w->job;
    const map_t *to = &job->output, *won = &job->winner;
    const int64_t outs = job->out_channels, channels = job->groups * outs, all = job->groups * w->row;
    const int64_t written = job->fuse == CONCAT ? job->sets : 1;
    for (int64_t i = 0; i < m; i++)
        for (int64_t g = 0; g < job->groups; g++) {
            float *best = out + i * all + g * w->row;
            uint8_t *set = which + i * channels + g * outs;
            if (won->data) memset(set, 0, (size_t)outs);
            for (int64_t s = 1; s < job->sets && job->fuse != CONCAT; s++) {
                const float *other = best + s * STRIP * all;
                if (job->fuse == SUM)
                    for (int64_t o = 0; o < outs; o++) best[o] += other[o];
                else
                    for (int64_t o = 0; o < outs; o++) {
                        float a = best[o], b = other[o];
                        int better = (b > a) | ((b != b) & (a == a)); /* a NaN wins, ties stay */
                        best[o] = better ? b : a;
                        set[o] = better ? (uint8_t)s : set[o];
                    }
            }
        }
    for (int64_t s = 0; s < written; s++)
        for (int64_t g = 0; g < job->groups; g++) {
            float *from = out + s * STRIP * all + g * w->row;
            const int64_t first = s * channels + g * outs, at = n * to->n + first * to->c + y * to->h + x0 * to->w;
            for (int64_t i = 0; job->bias && i < m; i++)
                for (int64_t o = 0; o < outs; o++) from[i * all + o] += job->bias[first + o];
            if (to->c == 1)
                for (int64_t i = 0; i < m; i++) write_line(to->data, at + i * to->w, 1, job->output_type, from + i * all, 1, outs);
            else
                for (int64_t o = 0; o < outs; o++) write_line(to->data, at + o * to->c, to->w, job->output_type, from + o, all, m);
        }
    if (!won->data) return;
    uint8_t *mine = (uint8_t *)won->data + n * won->n + y * won->h + x0 * won->w;
    if (won->c == 1)
        for (int64_t i = 0; i < m; i++) memcpy(mine + i * won->w, which + i * channels, (size_t)channels);
    else
        for (int64_t o = 0; o < channels; o++)
            for (int64_t i = 0; i < m; i++) mine[o * won->c + i * won->w] = which[i * channels + o];
}

static void forward_rows(int64_t begin, int64_t end, void *context) {
    work_t *w = context;
    const sampled_t *job = w->job;
    const int64_t all = job->groups * w->row;
    corners_t *corners = (corners_t *)floats((int64_t)(sizeof(corners_t) / 4) * job->taps);
    float *columns = floats(ROWS * w->depth), *out = floats(job->sets * STRIP * all);
    uint8_t *which = malloc((size_t)(STRIP * job->groups * job->out_channels));
    if (!corners || !columns || !out || !which) w->failed = 1;
    for (int64_t task = begin; task < end && !w->failed; task++) {
        int64_t n = task / job->out_height, y = task % job->out_height;
        for (int64_t x0 = 0; x0 < job->out_width; x0 += STRIP) {
            const int64_t m = least(STRIP, job->out_width - x0), parts = (m + ROWS - 1) / ROWS, some = (m + parts - 1) / parts;
            for (int64_t s = 0; s < job->sets; s++) {
                find_corners(job, n, s, y, x0, m, corners);
                for (int64_t gb = 0; gb < job->groups * w->blocks; gb++) {
                    int64_t g = gb / w->blocks, b = gb % w->blocks, count = least(BLOCK, job->channels - b * BLOCK);
                    const float *image = (const float *)job->input.data + n * job->input.n + g * job->channels + b * BLOCK;
                    int64_t set = job->own_weights ? s : 0;
                    const float *weight = w->packed + (set * job->groups * w->blocks + gb) * w->panels * w->depth * COLUMNS;
                    for (int64_t i = 0; i < m; i += some) {
                        int64_t k = least(some, m - i);
                        read_strip(w, corners, i, image, count, k, columns);
                        for (int64_t panel = 0; panel < w->panels; panel++)
                            product((int)k, columns, w->depth, weight + panel * w->depth * COLUMNS, w->depth,
                                    out + (s * STRIP + i) * all + g * w->row + panel * COLUMNS, all, b == 0);
                    }
                }
            }
            store_strip(w, n, y, x0, m, out, which);
        }
    }
    free(corners);
    free(columns);
    free(out);
    free(which);
}

INLINE float total_of(vec v) {
    float lane[LANES] __attribute__((aligned(64)));
    store(lane, v);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

/* Give a pixel its share of a tap's gradient q, and return the products of q and the pixel, to be added up. */
INLINE vec touch(const float *q, const float *p, float *to, float share, int64_t count, int wanted) {
    vec sum = {0}, one = splat(share);
    if (count == BLOCK) {
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) {
            vec value = load(q + v * LANES);
            if (wanted) sum += value * load(p + v * LANES);
            if (to) store(to + v * LANES, load(to + v * LANES) + one * value);
        }
        return sum;
    }
    for (int64_t k = 0; k < count; k++) {
        sum[0] += q[k] * p[k];
        if (to) to[k] += share * q[k];
    }
    return sum;
}

/* A task owns one share of the batch and one block of channels, so nobody else writes where it adds. */
static void backward_blocks(int64_t begin, int64_t end, void *context) {
    work_t *w = context;
    const sampled_t *job = w->job;
    const int64_t gbs = job->groups * w->blocks, weights = job->own_weights ? job->sets : 1;
    corners_t *corners = (corners_t *)floats((int64_t)(sizeof(corners_t) / 4) * job->taps);
    float *columns = floats(STRIP * w->depth), *back = floats(ROWS * w->depth), *grad = floats(STRIP * w->row);
    if (!corners || !columns || !back || !grad) w->failed = 1;
    const int through = job->input_gradient.data || job->offset_gradient.data;
    for (int64_t task = begin; task < end && !w->failed; task++) {
        int64_t slot = task / gbs, gb = task % gbs, g = gb / w->blocks, b = gb % w->blocks;
        int64_t count = least(BLOCK, job->channels - b * BLOCK), channel = g * job->channels + b * BLOCK;
        float *total = w->partial ? w->partial + task * weights * w->depth * w->row : 0;
        if (total) memset(total, 0, (size_t)(weights * w->depth * w->row) * 4);
        for (int64_t n = job->batch * slot / job->slots; n < job->batch * (slot + 1) / job->slots; n++)
            for (int64_t s = 0; s < job->sets; s++)
                for (int64_t y = 0; y < job->out_height; y++)
                    for (int64_t x0 = 0; x0 < job->out_width; x0 += STRIP) {
                        const int64_t m = least(STRIP, job->out_width - x0);
                        const int64_t parts = (m + ROWS - 1) / ROWS, some = (m + parts - 1) / parts;
                        const int64_t set = job->own_weights ? s : 0;
                        const map_t *from = &job->output, *won = &job->winner;
                        const int64_t first = (job->fuse == CONCAT ? s * job->groups + g : g) * job->out_channels;
                        const int64_t at = n * from->n + first * from->c + y * from->h + x0 * from->w;
                        const uint8_t *win = (const uint8_t *)won->data + n * won->n + first * won->c + y * won->h + x0 * won->w;
                        if (from->c == 1)
                            for (int64_t i = 0; i < m; i++)
                                read_line(from->data, at + i * from->w, 1, job->output_type, grad + i * w->row, 1, job->out_channels);
                        else
                            for (int64_t o = 0; o < job->out_channels; o++)
                                read_line(from->data, at + o * from->c, from->w, job->output_type, grad + o, w->row, m);
                        for (int64_t i = 0; i < m; i++) {
                            float *line = grad + i * w->row;
                            if (won->data)
                                for (int64_t o = 0; o < job->out_channels; o++)
                                    line[o] = win[i * won->w + o * won->c] == s ? line[o] : 0;
                            memset(line + job->out_channels, 0, (size_t)(w->row - job->out_channels) * 4);
                        }
                        find_corners(job, n, s, y, x0, m, corners);
                        const float *image = (const float *)job->input.data + n * job->input.n + channel;
                        if (total) {
                            read_strip(w, corners, 0, image, count, m, columns);
                            for (int64_t panel = 0; panel < w->panels; panel++)
                                product_transposed(m, columns, w->depth, w->depth, grad + panel * COLUMNS, w->row,
                                                   total + set * w->depth * w->row + panel * COLUMNS, w->row);
                        }
                        if (!through) continue;
                        const float *turned = w->packed_turned + (set * gbs + gb) * w->turned * job->out_channels * COLUMNS;
                        float *image_gradient =
                            job->input_gradient.data ? (float *)job->input_gradient.data + n * job->input_gradient.n + channel : 0;
                        float *moved = w->offset_partial && job->moves[s] >= 0
                                           ? w->offset_partial + ((gb * job->batch + n) * w->moving + job->moves[s]) * 2 * job->taps *
                                                                     job->out_height * job->out_width
                                           : 0;
                        for (int64_t i0 = 0; i0 < m; i0 += some) {
                            int64_t k = least(some, m - i0);
                            for (int64_t j = 0; j < w->turned; j++)
                                product((int)k, grad + i0 * w->row, w->row, turned + j * job->out_channels * COLUMNS, job->out_channels,
                                        back + j * COLUMNS, w->depth, 1);
                            for (int64_t t = 0; t < job->taps; t++)
                                for (int64_t i = 0; i < k; i++) {
                                    const corners_t *c = corners + t;
                                    const float *q = back + i * w->depth + t * BLOCK;
                                    const float down = c->down[i0 + i], right = c->right[i0 + i];
                                    vec dot[4] = {{0}, {0}, {0}, {0}};
#pragma GCC unroll 4
                                    for (int corner = 0; corner < 4; corner++) {
                                        int32_t at = c->at[corner][i0 + i];
                                        if (at < 0) continue;
                                        const float *p = image + at * job->input.w;
                                        float *to = image_gradient ? image_gradient + at * job->input_gradient.w : 0;
                                        dot[corner] = touch(q, p, to, c->share[corner][i0 + i], count, moved != 0);
                                    }
                                    if (moved) {
                                        float *put = moved + (2 * t * job->out_height + y) * job->out_width + x0 + i0 + i;
                                        vec left_slope = dot[2] - dot[0], right_slope = dot[3] - dot[1];
                                        vec top_slope = dot[1] - dot[0], low_slope = dot[3] - dot[2];
                                        put[0] = total_of(left_slope + splat(right) * (right_slope - left_slope));
                                        put[job->out_height * job->out_width] = total_of(top_slope + splat(down) * (low_slope - top_slope));
                                    }
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
    work_t *w = context;
    const sampled_t *job = w->job;
    const int64_t weights = job->own_weights ? job->sets : 1, gbs = job->groups * w->blocks, size = w->depth * w->row;
    for (int64_t task = begin; task < end; task++) { /* [set, G*O] */
        int64_t o = task % job->out_channels, g = task / job->out_channels % job->groups, s = task / job->out_channels / job->groups;
        for (int64_t k = 0; k < job->channels; k++)
            for (int64_t t = 0; t < job->taps; t++) {
                float sum = 0;
                for (int64_t slot = 0; slot < job->slots; slot++) {
                    int64_t part = (slot * gbs + g * w->blocks + k / BLOCK) * weights + s;
                    sum += w->partial[part * size + (t * BLOCK + k % BLOCK) * w->row + o];
                }
                job->gradient[(task * job->channels + k) * job->taps + t] = sum;
            }
    }
}

static void offset_total(int64_t begin, int64_t end, void *context) {
    work_t *w = context;
    const sampled_t *job = w->job;
    const int64_t gbs = job->groups * w->blocks, channels = w->moving * 2 * job->taps;
    const int64_t size = job->batch * channels * job->out_height * job->out_width;
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

/* Each returns 0, or 1 when there was no memory. */
int FOVEAL(sampled_forward)(const sampled_t *job) {
    work_t w;
    begin_work(job, &w);
    int64_t packs = (job->own_weights ? job->sets : 1) * job->groups * w.blocks;
    w.packed = floats(packs * w.panels * w.depth * COLUMNS);
    w.failed = !w.packed;
    if (!w.failed) {
        parallel(packs, pack_weight, &w);
        parallel(job->batch * job->out_height, forward_rows, &w);
    }
    free(w.packed);
    return w.failed;
}

int FOVEAL(sampled_backward)(const sampled_t *job) {
    work_t w;
    begin_work(job, &w);
    int64_t gbs = job->groups * w.blocks, weights = job->own_weights ? job->sets : 1, packs = weights * gbs;
    w.packed_turned = floats(packs * w.turned * job->out_channels * COLUMNS);
    if (job->gradient) w.partial = floats(job->slots * gbs * weights * w.depth * w.row);
    if (job->offset_gradient.data)
        w.offset_partial = floats(gbs * job->batch * w.moving * 2 * job->taps * job->out_height * job->out_width);
    w.failed = !w.packed_turned || (job->gradient && !w.partial) || (job->offset_gradient.data && !w.offset_partial);
    if (!w.failed) {
        parallel(packs, pack_weight, &w);
        parallel(job->slots * gbs, backward_blocks, &w);
        if (w.partial) parallel(weights * job->groups * job->out_channels, weight_total, &w);
        if (w.offset_partial) parallel(job->batch * w.moving * 2 * job->taps, offset_total, &w);
    }
    free(w.packed_turned);
    free(w.partial);
    free(w.offset_partial);
    return w.failed;
}
