/* What both ways of a sampled convolution share: a call, the corners that its points read, the strips of its output.
 *
 * The input is float32 with its channels innermost; offsets, masks and their gradients are float32 in any layout. For volumes
 * (DIMS 3) the rows of all planes are counted on: H' is D' times the rows of a plane in every map but the input. */
#ifndef FOVEAL_SAMPLED_H
#define FOVEAL_SAMPLED_H

#include <math.h>

#include "kernels.h"

#ifndef DIMS
#define DIMS 2
#endif
enum { CORNERS = 1 << DIMS }; /* pixels that a point reads */

typedef struct {
    map_t input, output;     /* [N, G*C, H, W] channels innermost, float32; [N, G*O (or S*G*O), H', W'] */
    map_t offset, winner;    /* [N, D*DIMS*T, H', W'] float32; uint8 as output, for a maximum of several sets */
    map_t mask;              /* [N, M*T, H', W'] float32 */
    map_t input_gradient;    /* float32, zeroed, channels innermost, as input; data NULL where not wanted */
    map_t offset_gradient, mask_gradient; /* as offset and mask; data NULL where not wanted */
    int32_t output_type, weight_type, fuse, own_weights; /* bias and gradient of the weight have the weight's type */
    int64_t batch, groups, channels, out_channels;       /* channels of one group */
    int64_t depth, height, width, out_height, out_width, plane_rows; /* rows of a plane of the output */
    int64_t stride[3];                                               /* of planes, rows and columns */
    int64_t sets, taps;
    int64_t offset_groups, border; /* parts of the channels with offsets and masks of their own; whether the border is continued */
    const int32_t *moves, *masks;  /* [S, offset_groups]: which of the D offsets, and of the M masks, or -1 */
    int64_t slots;                 /* shares of the batch in the backward pass, fixed whatever the threads */
    const float *tap;              /* [S, T, DIMS] */
    const void *weight;            /* [S or 1, G*O, C, T], or NULL: what is read is summed channel by channel, and O is C */
    const void *bias;              /* as output channels, or NULL */
    void *gradient;                /* of the weight, or NULL */
} sampled_t;

enum { MAX = 0, SUM = 1, CONCAT = 2 };
enum { STRIP = (DIMS == 2 ? 8 : 4) * ROWS, CHUNK = (DIMS == 2 ? 4 : 2) * ROWS }; /* pixels whose corners, and whose columns, are held together */
enum { FAR_OFF = 1 << 29 }; /* pixels: beyond any map, and twice as far is still an int32 */
static const float FAR_AWAY = FAR_OFF;
static const float ZEROS[64] __attribute__((aligned(64))) = {0};

/* The four pixels (eight voxels) that one tap reads at each position of a strip: their numbers (-1 outside), shares (times the
 * mask), fractions along each axis; the mask itself where there is one. The last axis changes first. */
typedef struct {
    int32_t at[CORNERS][STRIP];
    float share[CORNERS][STRIP];
    float part[DIMS][STRIP], mask[STRIP];
} corners_t;

typedef struct {
    const sampled_t *job;
    int64_t block, blocks, panels, row; /* channels at once, whole vectors; row = panels * COLUMNS */
    int64_t unit, unit_blocks;          /* channels that lie in one group and one offset group; blocks of each unit */
    int64_t depth, line;                /* taps * block, whole panels of it; floats between the columns of pixels */
    int64_t positions;                  /* H' * W' */
    float *packed;                      /* [S or 1, G, blocks, panels, taps * channels, COLUMNS] */
    float *packed_turned;               /* [S or 1, G, blocks, depth / COLUMNS, O, COLUMNS] */
    float *bias, *zeros;                /* [S or 1, G, row]; a row or a depth of zeros */
    float *partial;                     /* [slots, G, blocks, S or 1, depth, row] */
    float *offset_partial;              /* [G, blocks, N, moving, DIMS*T, H', W'] */
    float *mask_partial;                /* [G, blocks, N, masking, T, H', W'] */
    int64_t moving, masking;            /* sets with offsets, and with masks, in an offset group that has the most of them */
    int failed;
} work_t;

/* How many of the first `sets` sets have a place in an offset group. */
INLINE int64_t placed(const sampled_t *job, const int32_t *places, int64_t part, int64_t sets) {
    int64_t count = 0;
    for (int64_t s = 0; s < sets; s++) count += places[s * job->offset_groups + part] >= 0;
    return count;
}

INLINE int64_t common_divisor(int64_t a, int64_t b) {
    while (b) {
        const int64_t rest = a % b;
        a = b, b = rest;
    }
    return a;
}

static void begin_work(const sampled_t *job, work_t *w) {
    memset(w, 0, sizeof *w);
    w->job = job;
    w->unit = common_divisor(job->channels, job->groups * job->channels / job->offset_groups);
    /* a task of the backward pass owns a block of channels: of one image there are more when they are small */
    const int64_t widest = job->batch > 1 ? 64 : 32;
    for (w->block = LANES; w->block < widest && w->block < w->unit;) w->block *= 2;
    w->unit_blocks = ceil_div(w->unit, w->block);
    w->blocks = job->channels / w->unit * w->unit_blocks;
    w->panels = ceil_div(job->out_channels, COLUMNS);
    w->row = w->panels * COLUMNS;
    w->depth = up(job->taps * w->block, COLUMNS);
    w->line = w->depth;
    w->positions = job->out_height * job->out_width;
    for (int64_t part = 0; part < job->offset_groups; part++) {
        w->moving = most(w->moving, placed(job, job->moves, part, job->sets));
        w->masking = most(w->masking, placed(job, job->masks, part, job->sets));
    }
}

/* The first channel of block b of a group, how many channels it has, and the offset group in which they are. */
INLINE int64_t first_of(const work_t *w, int64_t b) { return b / w->unit_blocks * w->unit + b % w->unit_blocks * w->block; }
INLINE int64_t kept(const work_t *w, int64_t b) { return least(w->block, w->unit - b % w->unit_blocks * w->block); }
INLINE int64_t part_of(const work_t *w, int64_t g, int64_t b) {
    const sampled_t *job = w->job;
    return (g * job->channels + first_of(w, b)) / (job->groups * job->channels / job->offset_groups);
}

/* The m positions from number p of an image on, row by row: FOR_ROWS names the run, its start i in the strip, y and x. */
#define FOR_ROWS(p, m)                                                                                        \
    for (int64_t i = 0, run, y, x; i < (m) && (y = ((p) + i) / job->out_width, x = ((p) + i) % job->out_width, \
                                               run = least(job->out_width - x, (m) - i), 1);                   \
         i += run)

INLINE int32_t inside(int32_t at, int32_t size) { return at < 0 ? 0 : at < size ? at : size - 1; }

/* A coordinate on its way to a whole and a fractional part: within reach, and a NaN reads nothing while its shares are NaN. */
INLINE float near_by(float v) { return v < -FAR_AWAY ? -FAR_AWAY : v > FAR_AWAY ? FAR_AWAY : v; }
INLINE float whole_of(float v) { return floorf(v == v ? v : -FAR_AWAY); }

#if DIMS == 2
/* The corners of one tap, from its rows and columns as numbers, which start at those of the strip's positions. */
INLINE void corners_of_tap(const sampled_t *job, const int border, const int has_mask, int64_t m, int32_t start[2][STRIP],
                           float point[2][STRIP], corners_t *c) {
    const int32_t height = (int32_t)job->height, width = (int32_t)job->width;
    for (int32_t i = 0; i < (int32_t)m; i++) {
        float v = near_by(point[0][i]), u = near_by(point[1][i]);
        float fv = whole_of(v), fu = whole_of(u);
        float a = v - fv, b = u - fu;
        int32_t r = start[0][i] + (int32_t)fv, q = start[1][i] + (int32_t)fu;
        if (border) {
            const int32_t r0 = inside(r, height) * width, q0 = inside(q, width);
            const int32_t r1 = inside(r + 1, height) * width, q1 = inside(q + 1, width);
            c->at[0][i] = r0 + q0;
            c->at[1][i] = r0 + q1;
            c->at[2][i] = r1 + q0;
            c->at[3][i] = r1 + q1;
        } else {
            int r0 = (r >= 0) & (r < height), r1 = (r >= -1) & (r < height - 1);
            int q0 = (q >= 0) & (q < width), q1 = (q >= -1) & (q < width - 1);
            c->at[0][i] = r0 & q0 ? r * width + q : -1;
            c->at[1][i] = r0 & q1 ? r * width + q + 1 : -1;
            c->at[2][i] = r1 & q0 ? (r + 1) * width + q : -1;
            c->at[3][i] = r1 & q1 ? (r + 1) * width + q + 1 : -1;
        }
        c->share[0][i] = (1 - a) * (1 - b) * (has_mask ? c->mask[i] : 1);
        c->share[1][i] = (1 - a) * b * (has_mask ? c->mask[i] : 1);
        c->share[2][i] = a * (1 - b) * (has_mask ? c->mask[i] : 1);
        c->share[3][i] = a * b * (has_mask ? c->mask[i] : 1);
        c->part[0][i] = a;
        c->part[1][i] = b;
    }
}
#else
/* The corners of one tap, from its planes, rows and columns as numbers, which start at those of the strip's positions. */
INLINE void corners_of_tap(const sampled_t *job, const int border, const int has_mask, int64_t m, int32_t start[3][STRIP],
                           float point[3][STRIP], corners_t *c) {
    const int32_t depth = (int32_t)job->depth, height = (int32_t)job->height, width = (int32_t)job->width;
    const int32_t plane = height * width;
    for (int32_t i = 0; i < (int32_t)m; i++) {
        float w = near_by(point[0][i]), v = near_by(point[1][i]), u = near_by(point[2][i]);
        float fw = whole_of(w), fv = whole_of(v), fu = whole_of(u);
        float a = w - fw, b = v - fv, d = u - fu;
        int32_t f = start[0][i] + (int32_t)fw, r = start[1][i] + (int32_t)fv, q = start[2][i] + (int32_t)fu;
        if (border) {
            const int32_t f0 = inside(f, depth) * plane, f1 = inside(f + 1, depth) * plane;
            const int32_t r0 = inside(r, height) * width, r1 = inside(r + 1, height) * width;
            const int32_t q0 = inside(q, width), q1 = inside(q + 1, width);
            c->at[0][i] = f0 + r0 + q0;
            c->at[1][i] = f0 + r0 + q1;
            c->at[2][i] = f0 + r1 + q0;
            c->at[3][i] = f0 + r1 + q1;
            c->at[4][i] = f1 + r0 + q0;
            c->at[5][i] = f1 + r0 + q1;
            c->at[6][i] = f1 + r1 + q0;
            c->at[7][i] = f1 + r1 + q1;
        } else {
            /* numbers of voxels outside may be anything */
            const uint32_t first = ((uint32_t)f * (uint32_t)height + (uint32_t)r) * (uint32_t)width + (uint32_t)q;
            const int f0 = (f >= 0) & (f < depth), f1 = (f >= -1) & (f < depth - 1);
            const int r0 = (r >= 0) & (r < height), r1 = (r >= -1) & (r < height - 1);
            const int q0 = (q >= 0) & (q < width), q1 = (q >= -1) & (q < width - 1);
            c->at[0][i] = f0 & r0 & q0 ? (int32_t)first : -1;
            c->at[1][i] = f0 & r0 & q1 ? (int32_t)(first + 1) : -1;
            c->at[2][i] = f0 & r1 & q0 ? (int32_t)(first + (uint32_t)width) : -1;
            c->at[3][i] = f0 & r1 & q1 ? (int32_t)(first + (uint32_t)width + 1) : -1;
            c->at[4][i] = f1 & r0 & q0 ? (int32_t)(first + (uint32_t)plane) : -1;
            c->at[5][i] = f1 & r0 & q1 ? (int32_t)(first + (uint32_t)plane + 1) : -1;
            c->at[6][i] = f1 & r1 & q0 ? (int32_t)(first + (uint32_t)(plane + width)) : -1;
            c->at[7][i] = f1 & r1 & q1 ? (int32_t)(first + (uint32_t)(plane + width) + 1) : -1;
        }
        const float front = (1 - a) * (has_mask ? c->mask[i] : 1), back = a * (has_mask ? c->mask[i] : 1);
        c->share[0][i] = front * (1 - b) * (1 - d);
        c->share[1][i] = front * (1 - b) * d;
        c->share[2][i] = front * b * (1 - d);
        c->share[3][i] = front * b * d;
        c->share[4][i] = back * (1 - b) * (1 - d);
        c->share[5][i] = back * (1 - b) * d;
        c->share[6][i] = back * b * (1 - d);
        c->share[7][i] = back * b * d;
        c->part[0][i] = a;
        c->part[1][i] = b;
        c->part[2][i] = d;
    }
}
#endif

INLINE void corners_with(const sampled_t *job, const int border, const int has_mask, int64_t n, int64_t set, int64_t part, int64_t p, int64_t m,
                        corners_t *all) {
    const int32_t moved = job->moves[set * job->offset_groups + part], masked = job->masks[set * job->offset_groups + part];
    int32_t start[DIMS][STRIP];
    FOR_ROWS(p, m) {
        const int32_t down = (int32_t)least(y % job->plane_rows * job->stride[1], FAR_OFF);
        for (int64_t j = 0; j < run; j++) {
            start[DIMS - 2][i + j] = down;
            start[DIMS - 1][i + j] = (int32_t)least((x + j) * job->stride[2], FAR_OFF);
        }
        if (DIMS == 2) continue;
        const int32_t back = (int32_t)least(y / job->plane_rows * job->stride[0], FAR_OFF);
        for (int64_t j = 0; j < run; j++) start[0][i + j] = back;
    }
    for (int64_t t = 0; t < job->taps; t++) {
        corners_t *c = all + t;
        const float *tap = job->tap + (set * job->taps + t) * DIMS;
        float point[DIMS][STRIP];
        for (int axis = 0; axis < DIMS; axis++)
            for (int64_t i = 0; i < m; i++) point[axis][i] = tap[axis];
        if (moved >= 0) {
            const map_t *o = &job->offset;
            const float *image = (const float *)o->data + n * o->n + (moved * job->taps + t) * DIMS * o->c;
            FOR_ROWS(p, m) {
                const float *from = image + y * o->h + x * o->w;
                for (int axis = 0; axis < DIMS; axis++, from += o->c)
                    if (o->w == 1)
                        for (int64_t j = 0; j < run; j++) point[axis][i + j] += from[j];
                    else
                        for (int64_t j = 0; j < run; j++) point[axis][i + j] += from[j * o->w];
            }
        }
        if (has_mask) {
            const map_t *f = &job->mask;
            const float *image = (const float *)f->data + n * f->n + (masked * job->taps + t) * f->c;
            FOR_ROWS(p, m) {
                const float *from = image + y * f->h + x * f->w;
                if (f->w == 1)
                    memcpy(c->mask + i, from, (size_t)run * 4);
                else
                    for (int64_t j = 0; j < run; j++) c->mask[i + j] = from[j * f->w];
            }
        }
        corners_of_tap(job, border, has_mask, m, start, point, c);
    }
}

/* The corners of a strip of positions, for every tap of a set as an offset group reads it. */
static void find_corners(const sampled_t *job, int64_t n, int64_t set, int64_t part, int64_t p, int64_t m, corners_t *all) {
    const int has_mask = job->masks[set * job->offset_groups + part] >= 0;
    if (job->border && has_mask)
        corners_with(job, 1, 1, n, set, part, p, m, all);
    else if (job->border)
        corners_with(job, 1, 0, n, set, part, p, m, all);
    else if (has_mask)
        corners_with(job, 0, 1, n, set, part, p, m, all);
    else
        corners_with(job, 0, 0, n, set, part, p, m, all);
}

INLINE const float *pixel(const float *image, int64_t step, int32_t at) { return at < 0 ? ZEROS : image + at * step; }

SHARED int bring_bias(work_t *w) {
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
SHARED void fuse_sets(const work_t *w, int64_t m, float *out, uint8_t *which) {
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
SHARED void store_strip(const work_t *w, int64_t n, int64_t p, int64_t m, int64_t channel, const float *out,
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

/* What a strip of the gradient of the output says of set s, its channels `first` to `first + outs`: [m, row], zero where another
 * set won. */
static void read_gradient(const work_t *w, int64_t n, int64_t s, int64_t first, int64_t outs, int64_t p, int64_t m, float *grad) {
    const sampled_t *job = w->job;
    const map_t *from = &job->output, *won = &job->winner;
    if (job->fuse == CONCAT) first += s * job->groups * job->out_channels;
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

#endif
