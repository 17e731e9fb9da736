/* The sums of a binned convolution: how the work is cut into strips, and how a strip's sums are formed row by row in cache.
 *
 * A plan says how the sums are formed: tables, each the sum of two shifted earlier tables (the first are the planes of the map
 * that the window reads: one of an image, some of a volume), then for each column of the weight the terms (table, down, right)
 * that it adds up. Shifts are in pixels from the window's corner. The output is cut into strips, a volume's slice by slice;
 * going down one, each table keeps the few rows that an output row reads, in a ring. */
#ifndef FOVEAL_BINNED_H
#define FOVEAL_BINNED_H

#include <unistd.h>

#include "kernels.h"

/* How the work is cut into strips; benchmarks/fit_rules.py compiles others and measures them. */
#ifndef STRIP_PIXELS
#define STRIP_PIXELS 64 /* the most output pixels of a strip's row, and of the rows whose sums are formed together */
#endif
#ifndef STRIP_FLOATS
#define STRIP_FLOATS (160 << 10) /* floats of the outputs of a strip, where blocks of channels add to them */
#endif
#ifndef CACHE_SHARE
#define CACHE_SHARE 4 /* of the second level of cache, what the tables of a strip may take */
#endif

typedef struct {
    map_t input, output;                           /* [N, G*C, (D,) H, W] and [N, G*O, (D',) H', W'] */
    int32_t input_type, output_type, weight_type;  /* FLOAT32 or BFLOAT16; bias and gradient have the weight's */
    int32_t depthwise;                             /* one weight a column and channel: channels are all, groups 1 */
    int64_t slices;                                /* N * D' */
    int64_t groups, channels, out_channels;        /* channels of one group */
    int64_t height, width, out_height, out_width;
    int64_t depth, out_depth, input_d, output_d;   /* 1, 1, 0, 0 for images */
    int64_t depth_stride, depth_before;
    int64_t stride[2], before[2], window[2]; /* window: pixels between first and last tap */
    int64_t planes, tables, columns;
    const int32_t *plane; /* [planes]: how deep in the window each lies */
    const int32_t *table; /* [tables, 4]: a, b, down and right of b */
    const int32_t *first; /* [columns + 1]: where the terms of a column start */
    const int32_t *term;  /* [terms, 3]: table, down, right */
    const int32_t *span;  /* [planes + tables, 2]: first and last row of a table that output row 0 needs */
    int64_t weight_out, weight_in; /* elements between output and input channels of the weight; its columns lie together */
    const int64_t *map;            /* the map that the plan was made of, and its size in bytes */
    int64_t map_size;
    int64_t slots;                 /* partial sums of the weight's gradient, fixed whatever the threads */
    const void *weight, *bias;     /* [G, O, C, columns]; [G*O] or NULL */
    const int64_t *population;     /* [columns]: what each column is divided by, or NULL */
    void *gradient;                /* of the weight */
} binned_t;

/* How the work is cut. An output does not depend on it; the gradient of the weight does, and cuts by its slots. */
typedef struct {
    const binned_t *job;
    int64_t block, blocks;      /* input channels at once, whole vectors */
    int64_t panels, row;        /* of COLUMNS output channels; panels * COLUMNS */
    int64_t line;               /* floats between the sums of neighbouring pixels */
    int64_t strip_h, strip_w, strips_h, strips_w;
    int64_t cols, step;         /* pixels that a strip's row reads; floats of such a row */
    int64_t rows;               /* output rows whose sums are formed together */
    int64_t *base, ring;        /* where each table's ring lies; floats of all */
    int direct;                 /* products go to the output itself */
    int narrow;                 /* sums are bfloat16, for matrix tiles */
    uint16_t *tiles;            /* packed for these */
    float *packed;              /* [G, blocks, panels, columns * channels, COLUMNS] */
    float *bias;                /* [G, row] */
    float *partial;             /* [G, blocks, slots, columns * block, row] */
    int failed;
} cut_t;

static int64_t kept(const cut_t *c, int64_t b) { return least(c->block, c->job->channels - b * c->block); }

static int64_t rings_of(const binned_t *job) { return job->planes + job->tables; }

static int64_t ring_rows(const cut_t *c, int64_t t) { return c->job->span[2 * t + 1] - c->job->span[2 * t] + 1; }

/* Floats of the second level of cache that the tables may take; asked once, since the answer may take microseconds. */
static int64_t cache(void) {
    static long bytes = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    if (!bytes) bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return (bytes < 1 << 18 ? 1 << 20 : bytes) / (4 * CACHE_SHARE);
}

static void rings(cut_t *c, int64_t block, int64_t width) {
    const binned_t *job = c->job;
    c->block = block;
    c->strip_w = width;
    c->cols = (width - 1) * job->stride[1] + job->window[1] + 1;
    c->step = c->cols * block;
    c->ring = 0;
    for (int64_t t = 0; t < rings_of(job); t++) {
        c->base[t] = c->ring;
        c->ring += ring_rows(c, t) * c->step;
    }
}

/* Strips as wide, and blocks of as many channels, as let the tables stay in cache. */
static void cut_across(cut_t *c) {
    const binned_t *job = c->job;
    int64_t block = LANES, width = job->out_width;
    while (block < 32 && (block < job->channels || c->narrow)) block *= 2;
    if (width > STRIP_PIXELS) width = up(ceil_div(width, ceil_div(width, STRIP_PIXELS - 8)), ROWS);
    rings(c, block, width);
    if (c->ring > cache() && block > LANES && !c->narrow) rings(c, LANES, width);
    c->strips_w = ceil_div(job->out_width, width);
    c->blocks = ceil_div(job->channels, c->block);
}

/* Tall strips read few rows twice; but the outputs of a strip stay near while the blocks of channels add to them. */
static void cut_down(cut_t *c, int64_t pieces) {
    const binned_t *job = c->job;
    int64_t tall = job->out_height;
    if (!job->depthwise && (c->blocks > 1 || !c->direct))
        tall = least(tall, most(STRIP_FLOATS / (c->strip_w * c->row), job->tables ? 2 * job->window[0] : 8));
    c->strips_h = ceil_div(job->out_height, tall);
    const int64_t tasks = most(1, job->slices * job->groups * c->strips_w * (job->depthwise ? c->blocks : 1));
    if (tasks * c->strips_h < pieces) c->strips_h = least(ceil_div(pieces, tasks), ceil_div(job->out_height, 8));
    c->strip_h = ceil_div(job->out_height, c->strips_h);
    c->strips_h = ceil_div(job->out_height, c->strip_h);
}

/* So many rows together that the products' rows come out even. */
static int64_t even_rows(const cut_t *c) {
    int64_t best = 0, rows = 1;
    for (int64_t r = 1; r <= c->strip_h && r * c->strip_w <= STRIP_PIXELS; r++) {
        const int64_t pixels = r * c->strip_w, even = pixels * 100 / (ceil_div(pixels, ROWS) * ROWS);
        if (even > best) best = even, rows = r;
    }
    return rows;
}

/* `pieces`: how many strips there should be, where the map is large enough. */
static int cut(const binned_t *job, cut_t *c, int64_t pieces) {
    memset(c, 0, sizeof *c);
    c->job = job;
    c->base = malloc((size_t)rings_of(job) * sizeof(int64_t));
    if (!c->base) return 0;
    c->panels = ceil_div(job->out_channels, COLUMNS);
    c->row = c->panels * COLUMNS;
#ifdef TILES
    c->narrow = job->output_type == BFLOAT16 && job->input_type == BFLOAT16 && job->weight_type == BFLOAT16 && !job->gradient && !job->depthwise;
#endif
    cut_across(c);
    c->line = c->blocks == 1 && !c->narrow ? up((job->columns - 1) * job->channels + c->block, LANES) : job->columns * c->block;
    c->direct = job->output_type == FLOAT32 && job->output.c == 1 && job->out_channels % LANES == 0;
    cut_down(c, pieces);
    c->rows = even_rows(c);
    return 1;
}

/* Going down a strip: where it lies, and what its tables hold. */
typedef struct {
    const cut_t *c;
    int64_t n, channel, count; /* image, first channel, channels */
    int64_t front, top, left;  /* input pixel of the window's depth 0, and of the ring's row 0 and column 0 */
    int64_t width;             /* output pixels in a row */
    float *ring;
    int64_t *next;    /* [planes + tables]: the row that is made next */
    const float **at; /* [terms]: where a term of the first pixel of the row is read */
} strip_t;

static int hold_strip(const cut_t *c, strip_t *s) {
    memset(s, 0, sizeof *s);
    s->c = c;
    s->ring = floats(c->ring);
    s->next = malloc((size_t)rings_of(c->job) * sizeof(int64_t));
    s->at = malloc((size_t)most(1, c->job->first[c->job->columns]) * sizeof(float *));
    return s->ring && s->next && s->at;
}

static void drop_strip(strip_t *s) {
    free(s->ring);
    free(s->next);
    free(s->at);
}

/* Place of a strip: slice, first output pixel, and its size. */
static void place(const cut_t *c, int64_t strip, int64_t *n, int64_t *y0, int64_t *x0, int64_t *height, int64_t *width) {
    *x0 = strip % c->strips_w * c->strip_w;
    *y0 = strip / c->strips_w % c->strips_h * c->strip_h;
    *n = strip / c->strips_w / c->strips_h;
    *height = least(c->strip_h, c->job->out_height - *y0);
    *width = least(c->strip_w, c->job->out_width - *x0);
}

/* Where a slice of the output, or of its gradient, starts. */
static int64_t slice_at(const binned_t *job, int64_t slice) {
    return slice / job->out_depth * job->output.n + slice % job->out_depth * job->output_d;
}

static void begin_strip(strip_t *s, int64_t slice, int64_t g, int64_t b, int64_t y0, int64_t x0, int64_t width) {
    const binned_t *job = s->c->job;
    s->n = slice / job->out_depth;
    s->front = slice % job->out_depth * job->depth_stride - job->depth_before;
    s->channel = g * job->channels + b * s->c->block;
    s->count = kept(s->c, b);
    s->top = y0 * job->stride[0] - job->before[0];
    s->left = x0 * job->stride[1] - job->before[1];
    s->width = width;
    for (int64_t t = 0; t < rings_of(job); t++) s->next[t] = job->span[2 * t];
}

static float *row_of(const strip_t *s, int64_t t, int64_t r) {
    const int64_t rows = ring_rows(s->c, t);
    return s->ring + s->c->base[t] + (r < rows ? r : r % rows) * s->c->step;
}

/* A row of a plane of the input as [cols, block] floats, zeros outside the map and beyond the channels. */
static void read_row(const strip_t *s, int64_t t, int64_t r) {
    const cut_t *c = s->c;
    const binned_t *job = c->job;
    const map_t *in = &job->input;
    float *to = row_of(s, t, r);
    const int64_t z = s->front + job->plane[t], y = s->top + r;
    const int64_t x0 = least(c->cols, most(0, -s->left)), x1 = most(x0, least(c->cols, job->width - s->left));
    if (y < 0 || y >= job->height || z < 0 || z >= job->depth) {
        memset(to, 0, (size_t)c->step * 4);
        return;
    }
    memset(to, 0, (size_t)(x0 * c->block) * 4);
    memset(to + x1 * c->block, 0, (size_t)((c->cols - x1) * c->block) * 4);
    read_pixels(in->data, s->n * in->n + z * job->input_d + s->channel * in->c + y * in->h + (s->left + x0) * in->w, in->w, in->c, job->input_type,
                x1 - x0, s->count, c->block, to + x0 * c->block, c->block);
}

/* A row of a later table, where both of its parts lie inside. */
static void add_row(const strip_t *s, int64_t t, int64_t r) {
    const cut_t *c = s->c;
    const int32_t *q = c->job->table + 4 * (t - c->job->planes);
    const float *a = row_of(s, q[0], r), *b = row_of(s, q[1], r + q[2]) + q[3] * c->block;
    float *to = row_of(s, t, r);
    int64_t i = most(0, -q[3]) * c->block, end = least(c->cols, c->cols - q[3]) * c->block;
    for (; i < end; i += LANES) store(to + i, load(a + i) + load(b + i));
}

/* Make all that output row y of the strip reads, and point at it. */
static void go_down(strip_t *s, int64_t y) {
    const cut_t *c = s->c;
    const binned_t *job = c->job;
    const int64_t down = y * job->stride[0];
    for (int64_t t = 0; t < rings_of(job); t++) {
        const int32_t *span = job->span + 2 * t;
        int64_t r = most(s->next[t], down + span[0]);
        for (; r <= down + span[1]; r++)
            if (t < job->planes)
                read_row(s, t, r);
            else
                add_row(s, t, r);
        s->next[t] = r;
    }
    const int64_t terms = job->first[job->columns];
    for (int64_t i = 0; i < terms; i++) {
        const int32_t *q = job->term + 3 * i;
        if (y == 0 || job->stride[0] > 1) {
            s->at[i] = row_of(s, q[0], down + q[1]) + q[2] * c->block;
        } else {
            const float *end = s->ring + c->base[q[0]] + ring_rows(c, q[0]) * c->step;
            s->at[i] += c->step;
            if (s->at[i] >= end) s->at[i] -= ring_rows(c, q[0]) * c->step;
        }
    }
}

/* The sum over one column's terms, for `pixels` neighbouring positions of `wide` vectors each, `step` floats apart. */
INLINE void add_up(const strip_t *s, int64_t r, int64_t from, int64_t step, const int pixels, const int wide, vec *sum) {
    const int32_t *first = s->c->job->first;
    int64_t i = first[r], end = first[r + 1];
    if (i == end) {
#pragma GCC unroll 8
        for (int v = 0; v < pixels * wide; v++) sum[v] = (vec){0};
        return;
    }
    const float *q = s->at[i] + from;
#pragma GCC unroll 8
    for (int v = 0; v < pixels * wide; v++) sum[v] = load(q + (v / wide) * step + (v % wide) * LANES);
    for (i++; i < end; i++) {
        q = s->at[i] + from;
#pragma GCC unroll 8
        for (int v = 0; v < pixels * wide; v++) sum[v] += load(q + (v / wide) * step + (v % wide) * LANES);
    }
}

INLINE void sum_pixels(const strip_t *s, int64_t x, const int pixels, const int wide, const int type, void *sums) {
    const int64_t step = s->c->job->stride[1] * s->c->block, line = s->c->line;
    const int64_t apart = type == BFLOAT16 ? s->c->block : s->count;
    for (int64_t r = 0; r < s->c->job->columns; r++) {
        vec sum[8];
        add_up(s, r, x * step, step, pixels, wide, sum);
        /* channels that are not there are overwritten by the next column */
#pragma GCC unroll 8
        for (int v = 0; v < pixels * wide; v++)
            store_any(sums, (x + v / wide) * line + r * apart + (v % wide) * LANES, type, sum[v]);
    }
}

/* Sums of all columns for the row that the strip stands at, [width, line]. */
static void sum_row(const strip_t *s, float *sums) {
    int64_t x = 0;
#define SUMS(pixels, vectors)                                                                  \
    for (; x + pixels <= s->width; x += pixels) sum_pixels(s, x, pixels, vectors, FLOAT32, sums); \
    for (; x < s->width; x++) sum_pixels(s, x, 1, vectors, FLOAT32, sums);
    switch (s->c->block / LANES) {
    case 1: SUMS(8, 1) break;
    case 2: SUMS(4, 2) break;
    case 4: SUMS(2, 4) break;
    default: SUMS(1, 8)
    }
#undef SUMS
}

#ifdef TILES
/* The same in bfloat16, [width, columns, 32]. */
static void sum_row_narrow(const strip_t *s, uint16_t *sums) {
    int64_t x = 0;
    for (; x + 4 <= s->width; x += 4) sum_pixels(s, x, 4, 2, BFLOAT16, sums);
    for (; x < s->width; x++) sum_pixels(s, x, 1, 2, BFLOAT16, sums);
}
#endif

#endif
