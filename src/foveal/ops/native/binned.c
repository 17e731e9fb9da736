/* Binned convolution: sums over the pixels of each bin, formed row by row in cache and fed to a matrix product.
 *
 * A plan says how the sums are formed: tables, each the sum of two shifted earlier tables (the first are the planes of the map
 * that the window reads: one of an image, some of a volume), then for each column of the weight the terms (table, down, right)
 * that it adds up. Shifts are in pixels from the window's corner. The output is cut into strips, a volume's slice by slice;
 * going down one, each table keeps the few rows that an output row reads, in a ring. */
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

/* `pieces`: how many strips there should be, where the map is large enough. */
static int cut(const binned_t *job, cut_t *c, int64_t pieces) {
    memset(c, 0, sizeof *c);
    c->job = job;
    c->base = malloc((size_t)rings_of(job) * sizeof(int64_t));
    if (!c->base) return 0;
    c->panels = ceil_div(job->out_channels, COLUMNS);
    c->row = c->panels * COLUMNS;
    int64_t block = LANES;
#ifdef TILES
    c->narrow = job->output_type == BFLOAT16 && job->input_type == BFLOAT16 && job->weight_type == BFLOAT16 && !job->gradient && !job->depthwise;
#endif
    while (block < 32 && (block < job->channels || c->narrow)) block *= 2;
    int64_t width = job->out_width;
    if (width > STRIP_PIXELS) width = up(ceil_div(width, ceil_div(width, STRIP_PIXELS - 8)), ROWS);
    rings(c, block, width);
    if (c->ring > cache() && block > LANES && !c->narrow) rings(c, LANES, width);
    c->strips_w = ceil_div(job->out_width, width);
    c->blocks = ceil_div(job->channels, c->block);
    c->line = c->blocks == 1 && !c->narrow ? up((job->columns - 1) * job->channels + c->block, LANES) : job->columns * c->block;
    /* tall strips read few rows twice; but the outputs of a strip stay near while the blocks of channels add to them */
    const map_t *out = &job->output;
    c->direct = job->output_type == FLOAT32 && out->c == 1 && job->out_channels % LANES == 0;
    int64_t tall = job->out_height;
    if (!job->depthwise && (c->blocks > 1 || !c->direct))
        tall = least(tall, most(STRIP_FLOATS / (width * c->row), job->tables ? 2 * job->window[0] : 8));
    c->strips_h = ceil_div(job->out_height, tall);
    int64_t tasks = most(1, job->slices * job->groups * c->strips_w * (job->depthwise ? c->blocks : 1));
    if (tasks * c->strips_h < pieces) c->strips_h = least(ceil_div(pieces, tasks), ceil_div(job->out_height, 8));
    c->strip_h = ceil_div(job->out_height, c->strips_h);
    c->strips_h = ceil_div(job->out_height, c->strip_h);
    /* so many rows together that the products' rows come out even */
    int64_t best = 0;
    for (int64_t r = 1; r <= c->strip_h && r * width <= STRIP_PIXELS; r++) {
        int64_t even = r * width * 100 / (ceil_div(r * width, ROWS) * ROWS);
        if (even > best) best = even, c->rows = r;
    }
    c->rows = most(1, c->rows);
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

INLINE int used(const binned_t *job, int64_t column) { return job->first[column] < job->first[column + 1]; }

/* weight -> panels [G, blocks, panels, columns * channels, COLUMNS]. */
static void pack(int64_t begin, int64_t end, void *context) {
    const cut_t *c = context;
    const binned_t *job = c->job;
    const int64_t columns = job->columns, size = job->groups * job->out_channels * job->channels * columns;
    for (int64_t task = begin; task < end; task++) {
        const int64_t panel = task % c->panels, b = task / c->panels % c->blocks, g = task / c->panels / c->blocks;
        const int64_t count = kept(c, b), outs = least(COLUMNS, job->out_channels - panel * COLUMNS);
        const int64_t first = g * (size / job->groups) + panel * COLUMNS * job->weight_out + b * c->block * job->weight_in;
        float *to = c->packed + (task / c->panels * c->panels * c->block + panel * count) * columns * COLUMNS;
        pack_panels(job->weight, job->weight_type, size, first, job->weight_out, outs, job->weight_in, count, columns, to);
        /* a weight without taps is never read, whatever it is: NaN times an empty sum would come out */
        for (int64_t r = 0; r < columns; r++) {
            float *rows = to + r * count * COLUMNS;
            if (!used(job, r)) memset(rows, 0, (size_t)(count * COLUMNS) * 4);
            vec among = splat(job->population ? (float)job->population[r] : 1);
            for (int64_t i = 0; job->population && i < count * COLUMNS; i += LANES) store(rows + i, load(rows + i) / among);
        }
    }
}

#ifdef TILES
/* Packed panels as tiles; behind the channels of a last block stand zeros. */
static void tile_weight(int64_t begin, int64_t end, void *context) {
    cut_t *c = context;
    const int64_t columns = c->job->columns, size = columns * c->block * COLUMNS;
    float *whole = floats(size);
    if (!whole) c->failed = 1;
    for (int64_t task = begin; task < end && whole; task++) {
        const int64_t count = kept(c, task / c->panels % c->blocks), panel = task % c->panels;
        const float *from = c->packed + (task / c->panels * c->panels * c->block + panel * count) * columns * COLUMNS;
        memset(whole, 0, (size_t)size * 4);
        for (int64_t r = 0; r < columns; r++)
            memcpy(whole + r * c->block * COLUMNS, from + r * count * COLUMNS, (size_t)(count * COLUMNS) * 4);
        pack_tiles(whole, columns * c->block, c->tiles + task * size);
    }
    free(whole);
}
#endif

static int bring_bias(cut_t *c) {
    const binned_t *job = c->job;
    c->bias = floats(job->groups * c->row);
    if (!c->bias) return 0;
    memset(c->bias, 0, (size_t)(job->groups * c->row) * 4);
    for (int64_t i = 0; job->bias && i < job->groups * job->out_channels; i++)
        c->bias[i / job->out_channels * c->row + i % job->out_channels] = get(job->bias, i, job->weight_type);
    return 1;
}

static void forward_strips(int64_t begin, int64_t end, void *context) {
    cut_t *c = context;
    const binned_t *job = c->job;
    const map_t *out = &job->output;
    const int64_t strips = job->slices * c->strips_h * c->strips_w;
    strip_t s;
    float *sums = floats(up(c->rows * c->strip_w, 32) * c->line), *made = c->direct ? 0 : floats(c->strip_h * c->strip_w * c->row);
#ifdef TILES
    if (c->narrow) begin_tiles();
#endif
    if (!hold_strip(c, &s) || !sums || (!c->direct && !made)) c->failed = 1;
    for (int64_t task = begin; task < end && !c->failed; task++) {
        int64_t g = task / strips, n, y0, x0, height, width;
        place(c, task % strips, &n, &y0, &x0, &height, &width);
        const int64_t at = slice_at(job, n) + g * job->out_channels * out->c + y0 * out->h + x0 * out->w;
        /* rows of the output may lie together */
        const int64_t step = c->direct ? out->w : c->row, apart = c->direct ? out->h : width * c->row;
        for (int64_t b = 0; b < c->blocks; b++) {
            const float *weight = c->packed + (g * c->blocks + b) * c->panels * job->columns * c->block * COLUMNS;
            float *to = c->direct ? (float *)out->data + at : made;
            begin_strip(&s, n, g, b, y0, x0, width);
            for (int64_t y = 0; y < height; y += c->rows) {
                const int64_t rows = least(c->rows, height - y), together = apart == width * step ? rows : 1;
#ifdef TILES
                if (c->narrow) {
                    for (int64_t r = 0; r < rows; r++) {
                        go_down(&s, y + r);
                        sum_row_narrow(&s, (uint16_t *)sums + r * width * c->line);
                    }
                    multiply_tiles(rows * width, (uint16_t *)sums, c->line, c->tiles + (weight - c->packed), job->columns * c->block,
                                   job->out_channels, to + y * apart, step, b ? 0 : c->bias + g * c->row);
                    continue;
                }
#endif
                for (int64_t r = 0; r < rows; r++) {
                    go_down(&s, y + r);
                    sum_row(&s, sums + r * width * c->line);
                }
                for (int64_t r = 0; r < rows; r += together)
                    multiply(together * width, sums + r * width * c->line, c->line, weight, job->columns * s.count,
                             job->out_channels, to + (y + r) * apart, step, b ? 0 : c->bias + g * c->row);
            }
        }
        for (int64_t y = 0; made && y < height; y++)
            write_pixels(out->data, at + y * out->h, out->w, out->c, job->output_type, width, job->out_channels,
                         made + y * width * c->row, c->row);
    }
#ifdef TILES
    if (c->narrow) _tile_release();
#endif
    drop_strip(&s);
    free(sums);
    free(made);
}

/* Vectors of sums, and as many totals, that fit the registers. */
enum { HELD = LANES == 16 ? 8 : 4 };

/* One weight a column and channel: the sums are weighted and added up in registers. */
INLINE void depthwise_pixels(const strip_t *s, int64_t x, const int pixels, const int wide, const float *weight, float *out) {
    const int64_t block = s->c->block, step = s->c->job->stride[1] * block;
    vec total[8];
#pragma GCC unroll 8
    for (int v = 0; v < pixels * wide; v++) total[v] = (vec){0};
    for (int64_t r = 0; r < s->c->job->columns; r++) {
        vec sum[8];
        add_up(s, r, x * step, step, pixels, wide, sum);
#pragma GCC unroll 8
        for (int v = 0; v < pixels * wide; v++) total[v] += sum[v] * load(weight + r * block + (v % wide) * LANES);
    }
#pragma GCC unroll 8
    for (int v = 0; v < pixels * wide; v++) store(out + (x + v / wide) * block + (v % wide) * LANES, total[v]);
}

static void depthwise_strips(int64_t begin, int64_t end, void *context) {
    cut_t *c = context;
    const binned_t *job = c->job;
    const map_t *to = &job->output;
    const int64_t block = c->block;
    strip_t s;
    float *weight = floats(job->columns * block), *bias = floats(block), *out = floats(c->strip_w * block);
    if (!hold_strip(c, &s) || !weight || !bias || !out) c->failed = 1;
    for (int64_t task = begin; task < end && !c->failed; task++) {
        int64_t b = task % c->blocks, n, y0, x0, height, width;
        place(c, task / c->blocks, &n, &y0, &x0, &height, &width);
        begin_strip(&s, n, 0, b, y0, x0, width);
        for (int64_t k = 0; k < block; k++) {
            bias[k] = job->bias && k < s.count ? get(job->bias, s.channel + k, job->weight_type) : 0;
            for (int64_t r = 0; r < job->columns; r++)
                weight[r * block + k] =
                    k < s.count && used(job, r) ? get(job->weight, (s.channel + k) * job->columns + r, job->weight_type) : 0;
        }
        for (int64_t y = 0; y < height; y++) {
            go_down(&s, y);
            int64_t x = 0;
#define SUMS(pixels, vectors)                                                                           \
    for (; x + pixels <= width; x += pixels) depthwise_pixels(&s, x, pixels, vectors, weight, out); \
    for (; x < width; x++) depthwise_pixels(&s, x, 1, vectors, weight, out);
            switch (block / LANES) {
            case 1: SUMS(HELD, 1) break;
            case 2: SUMS(HELD / 2, 2) break;
            case 4: SUMS(HELD / 4, 4) break;
            default: SUMS(1, 8)
            }
#undef SUMS
            for (x = 0; job->bias && x < width; x++)
                for (int64_t k = 0; k < block; k += LANES) store(out + x * block + k, load(out + x * block + k) + load(bias + k));
            write_pixels(to->data, slice_at(job, n) + s.channel * to->c + (y0 + y) * to->h + x0 * to->w, to->w, to->c, job->output_type,
                         width, s.count, out, block);
        }
    }
    drop_strip(&s);
    free(weight);
    free(bias);
    free(out);
}

/* The gradient of the output arrives in job->output. */
static void weight_strips(int64_t begin, int64_t end, void *context) {
    cut_t *c = context;
    const binned_t *job = c->job;
    const map_t *from = &job->output;
    const int64_t strips = job->slices * c->strips_h * c->strips_w, size = job->columns * c->block * c->row;
    strip_t s;
    float *sums = floats(c->rows * c->strip_w * c->line), *copy = floats(c->rows * c->strip_w * c->row);
    const int together = c->direct && from->h == job->out_width * from->w && c->strips_w == 1; /* read where it lies */
    if (!hold_strip(c, &s) || !sums || !copy) c->failed = 1;
    for (int64_t task = begin; task < end && !c->failed; task++) {
        int64_t slot = task % job->slots, b = task / job->slots % c->blocks, g = task / job->slots / c->blocks;
        float *to = c->partial + task * size;
        memset(to, 0, (size_t)size * 4);
        for (int64_t strip = strips * slot / job->slots; strip < strips * (slot + 1) / job->slots; strip++) {
            int64_t n, y0, x0, height, width;
            place(c, strip, &n, &y0, &x0, &height, &width);
            begin_strip(&s, n, g, b, y0, x0, width);
            const int64_t start = slice_at(job, n) + g * job->out_channels * from->c + y0 * from->h + x0 * from->w;
            for (int64_t y = 0; y < height; y += c->rows) {
                const int64_t rows = least(c->rows, height - y);
                for (int64_t r = 0; r < rows; r++) {
                    go_down(&s, y + r);
                    sum_row(&s, sums + r * width * c->line);
                    const int64_t at = start + (y + r) * from->h;
                    if (!together) read_pixels(from->data, at, from->w, from->c, job->output_type, width, job->out_channels,
                                up(job->out_channels, LANES), copy + r * width * c->row, c->row);
                }
                multiply_transposed(rows * width, sums, c->line, job->columns * s.count,
                                    together ? (float *)from->data + start + y * from->h : copy, together ? from->w : c->row,
                                    job->out_channels, to, c->row);
            }
        }
    }
    drop_strip(&s);
    free(sums);
    free(copy);
}

/* Add up the partial sums. */
static void weight_total(int64_t begin, int64_t end, void *context) {
    const cut_t *c = context;
    const binned_t *job = c->job;
    const int64_t size = job->columns * c->block * c->row, inputs = job->channels * job->columns;
    for (int64_t task = begin; task < end; task++) { /* [G, blocks] */
        const int64_t b = task % c->blocks, first = task / c->blocks * job->out_channels * inputs + b * c->block * job->columns;
        unpack_sums(c->partial + task * job->slots * size, job->slots, size, c->row, job->out_channels, kept(c, b), job->columns,
                    job->gradient, job->weight_type, first, inputs, job->columns);
    }
}

/* Each returns 0, or 1 when there was no memory. The job may be shared by calls that run at the same time.
 *
 * `map`, where it is given, must still be the one that the plan was made of; 2 tells that it is not, and nothing was done. */
int FOVEAL(binned_forward)(const binned_t *shared, void *input, const void *weight, const void *bias, void *output,
                           const void *map, const int64_t *population, int64_t threads) {
    if (map && memcmp(map, shared->map, (size_t)shared->map_size)) return 2;
    binned_t job = *shared;
    job.input.data = input, job.output.data = output, job.weight = weight, job.bias = bias;
    job.population = population;
    cut_t c;
    int64_t tasks = 0;
    int failed = !cut(&job, &c, threads > 1 ? 2 * threads : 1);
    if (!failed) {
        tasks = job.slices * c.strips_h * c.strips_w;
        if (!job.depthwise) {
            c.packed = borrow(job.groups * c.blocks * c.panels * job.columns * c.block * COLUMNS);
            failed = !c.packed || !bring_bias(&c);
        }
    }
    if (!failed && job.depthwise) parallel(tasks * c.blocks, depthwise_strips, &c);
    if (!failed && !job.depthwise) {
        parallel(job.groups * c.blocks * c.panels, pack, &c);
#ifdef TILES
        if (c.narrow) {
            c.tiles = (uint16_t *)floats(job.groups * c.blocks * c.panels * job.columns * c.block * COLUMNS / 2);
            if (c.tiles)
                parallel(job.groups * c.blocks * c.panels, tile_weight, &c);
            else
                c.failed = 1;
        }
#endif
        parallel(job.groups * tasks, forward_strips, &c);
    }
    free(c.base);
    give_back(c.packed);
    free(c.tiles);
    free(c.bias);
    return failed || c.failed;
}

int FOVEAL(binned_weight_gradient)(const binned_t *shared, void *input, void *grad, void *gradient) {
    binned_t job = *shared;
    job.input.data = input, job.output.data = grad, job.gradient = gradient;
    cut_t c;
    int failed = !cut(&job, &c, job.slots);
    if (!failed) {
        c.partial = floats(job.groups * c.blocks * job.slots * job.columns * c.block * c.row);
        failed = !c.partial;
    }
    if (!failed) {
        parallel(job.groups * c.blocks * job.slots, weight_strips, &c);
        parallel(job.groups * c.blocks, weight_total, &c);
    }
    free(c.base);
    free(c.partial);
    return failed || c.failed;
}

#ifdef TILES
/* Whether matrix tiles multiply as they should: small whole numbers, whose products are exact. */
int FOVEAL(tiles_work)(void) {
    enum { DEPTH = 64 };
    uint16_t a[32 * DEPTH], packed[DEPTH * COLUMNS];
    float b[DEPTH * COLUMNS], out[32 * COLUMNS];
    for (int i = 0; i < 32 * DEPTH; i++) a[i] = to_bfloat16((float)(i * 7 % 13 - 6));
    for (int i = 0; i < DEPTH * COLUMNS; i++) b[i] = (float)(i * 5 % 11 - 5);
    memset(out, 0, sizeof out);
    begin_tiles();
    pack_tiles(b, DEPTH, packed);
    multiply_tiles(32, a, DEPTH, packed, DEPTH, COLUMNS, out, COLUMNS, 0);
    _tile_release();
    for (int i = 0; i < 32; i++)
        for (int o = 0; o < COLUMNS; o++) {
            float sum = 0;
            for (int k = 0; k < DEPTH; k++) sum += from_bfloat16(a[i * DEPTH + k]) * b[k * COLUMNS + o];
            if (sum != out[i * COLUMNS + o]) return 0;
        }
    return 1;
}
#endif
