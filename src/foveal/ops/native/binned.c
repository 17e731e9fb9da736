/* Binned convolution: sums over the pixels of each bin, formed tile by tile in cache and fed to a matrix product.
 *
 * A plan says how the sums are formed: tables, each the sum of two shifted earlier tables (table 0 is the map itself), then for
 * each column of the weight the terms (table, down, right) that it adds up. Shifts are in pixels from the window's corner. */
#include "kernels.h"

typedef struct {
    map_t input, output;               /* [N, G*C, H, W] and [N, G*O, H', W'] */
    int32_t input_type, output_type;   /* FLOAT32 or BFLOAT16 */
    int64_t batch, groups, channels, out_channels; /* channels of one group */
    int64_t height, width, out_height, out_width;
    int64_t stride[2], before[2], window[2]; /* window: pixels between first and last tap */
    int64_t tables, columns;
    const int32_t *table; /* [tables, 4]: a, b, down and right of b */
    const int32_t *first; /* [columns + 1]: where the terms of a column start */
    const int32_t *term;  /* [terms, 3]: table, down, right */
    const float *weight;  /* [G*O, C, columns] */
    const float *bias;    /* [G*O] or NULL */
    float *gradient;      /* of the weight, [G*O, C, columns] */
    int64_t slots;        /* partial sums of that gradient, fixed whatever the threads */
} binned_t;

/* How the work is cut: the same for any number of threads. */
typedef struct {
    const binned_t *job;
    int64_t block;              /* channels at once, a multiple of LANES */
    int64_t blocks, panels;     /* blocks of input channels, panels of COLUMNS output channels */
    int64_t tile_h, tile_w, tiles_h, tiles_w; /* tiles of output pixels */
    int64_t rows, cols, plane;  /* the input pixels of a tile */
    int64_t depth;              /* columns * block */
    const int64_t *where;       /* [terms]: offset of a term in the tile's tables */
    float *packed;              /* [G, blocks, panels, depth, COLUMNS] */
    float *partial;             /* [G, blocks, slots, depth, panels * COLUMNS] */
    int failed;
} cut_t;

INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static void cut(const binned_t *job, cut_t *c) {
    memset(c, 0, sizeof *c);
    c->job = job;
    c->block = least(up(job->channels, LANES), 32);
    if (c->block != 32 && c->block != LANES) c->block = c->block <= 2 * LANES ? 2 * LANES : 32;
    if (c->block > 32) c->block = 32;
    c->blocks = ceil_div(job->channels, c->block);
    c->panels = ceil_div(job->out_channels, COLUMNS);
    c->depth = job->columns * c->block;
    /* a tile's tables and its output stay in the second level of cache */
    int64_t budget = 48 * 1024; /* floats */
    int64_t w = least(job->out_width, 32);
    c->tiles_w = ceil_div(job->out_width, w);
    c->tile_w = ceil_div(job->out_width, c->tiles_w);
    int64_t h = least(job->out_height, 16);
    for (;; h = (h + 1) / 2) {
        c->tiles_h = ceil_div(job->out_height, h);
        c->tile_h = ceil_div(job->out_height, c->tiles_h);
        c->rows = (c->tile_h - 1) * job->stride[0] + job->window[0] + 1;
        c->cols = (c->tile_w - 1) * job->stride[1] + job->window[1] + 1;
        c->plane = c->rows * c->cols * c->block;
        if (h <= 4 || c->plane * (1 + job->tables) <= budget) break;
    }
}

static int64_t *places(const cut_t *c) {
    const binned_t *job = c->job;
    int64_t terms = job->first[job->columns];
    int64_t *where = malloc((size_t)most(terms, 1) * sizeof(int64_t));
    for (int64_t i = 0; where && i < terms; i++) {
        const int32_t *t = job->term + 3 * i;
        where[i] = t[0] * c->plane + (t[1] * c->cols + t[2]) * c->block;
    }
    return where;
}

/* The input pixels of a tile as [rows, cols, block] floats, zeros outside the map and beyond the channels. */
static void load_tile(const cut_t *c, int64_t n, int64_t channel, int64_t count, int64_t top, int64_t left, float *tile) {
    const binned_t *job = c->job;
    const int64_t block = c->block;
    const map_t *in = &job->input;
    int64_t x0 = most(0, -left), x1 = least(c->cols, job->width - left);
    for (int64_t r = 0; r < c->rows; r++) {
        float *line = tile + r * c->cols * block;
        int64_t y = top + r;
        if (y < 0 || y >= job->height || x0 >= x1) {
            memset(line, 0, (size_t)(c->cols * block) * 4);
            continue;
        }
        memset(line, 0, (size_t)(x0 * block) * 4);
        memset(line + x1 * block, 0, (size_t)((c->cols - x1) * block) * 4);
        int64_t at = n * in->n + channel * in->c + y * in->h + left * in->w;
        if (count < block)
            for (int64_t x = x0; x < x1; x++) memset(line + x * block + count, 0, (size_t)(block - count) * 4);
        if (in->c == 1)
            for (int64_t x = x0; x < x1; x++)
                read_line(in->data, at + x * in->w, 1, job->input_type, line + x * block, 1, count);
        else
            for (int64_t k = 0; k < count; k++)
                read_line(in->data, at + k * in->c + x0 * in->w, in->w, job->input_type, line + x0 * block + k, block, x1 - x0);
    }
}

/* The tables behind the tile: each adds two earlier ones, where both lie inside. */
static void make_tables(const cut_t *c, float *tile) {
    for (int64_t t = 0; t < c->job->tables; t++) {
        const int32_t *q = c->job->table + 4 * t;
        const float *a = tile + q[0] * c->plane, *b = tile + q[1] * c->plane;
        float *out = tile + (t + 1) * c->plane;
        int64_t down = q[2], right = q[3];
        int64_t y0 = most(0, -down), y1 = least(c->rows, c->rows - down);
        int64_t x0 = most(0, -right), x1 = least(c->cols, c->cols - right);
        for (int64_t y = y0; y < y1; y++) {
            int64_t at = (y * c->cols + x0) * c->block, end = (y * c->cols + x1) * c->block;
            int64_t shift = (down * c->cols + right) * c->block;
            for (; at < end; at += LANES) store(out + at, load(a + at) + load(b + at + shift));
        }
    }
}

/* Sums of every column for `pixels` neighbouring positions, each `wide` vectors of channels, `step` floats apart. */
INLINE void sum_pixels(const cut_t *c, const float *base, int64_t step, const int pixels, const int wide, float *sums) {
    const int32_t *first = c->job->first;
    for (int64_t r = 0; r < c->job->columns; r++) {
        vec acc[8];
#pragma GCC unroll 8
        for (int v = 0; v < pixels * wide; v++) acc[v] = (vec){0};
        for (int64_t i = first[r]; i < first[r + 1]; i++) {
            const float *q = base + c->where[i];
#pragma GCC unroll 8
            for (int v = 0; v < pixels * wide; v++) acc[v] += load(q + (v / wide) * step + (v % wide) * LANES);
        }
#pragma GCC unroll 8
        for (int v = 0; v < pixels * wide; v++)
            store(sums + (v / wide) * c->depth + r * c->block + (v % wide) * LANES, acc[v]);
    }
}

static void sum_row(const cut_t *c, const float *base, int64_t step, int64_t m, float *sums) {
    const int wide = (int)(c->block / LANES);
    const int64_t row = c->depth;
    int64_t i = 0;
#define SUMS(pixels, vectors)                                                                            \
    for (; i + pixels <= m; i += pixels) sum_pixels(c, base + i * step, step, pixels, vectors, sums + i * row); \
    for (; i < m; i++) sum_pixels(c, base + i * step, step, 1, vectors, sums + i * row);
    if (wide == 1) {
        SUMS(8, 1)
    } else if (wide == 2) {
        SUMS(4, 2)
    } else if (wide == 4) {
        SUMS(2, 4)
    } else {
        SUMS(1, 8)
    }
#undef SUMS
}

/* A weight without taps is never read, whatever it is: NaN times an empty sum would come out. */
INLINE float used(const binned_t *job, int64_t column, float weight) {
    return job->first[column] < job->first[column + 1] ? weight : 0;
}

/* weight [G*O, C, columns] -> panels [G, blocks, panels, columns * block, COLUMNS], zeros beyond. */
static void pack(int64_t begin, int64_t end, void *context) {
    cut_t *c = context;
    const binned_t *job = c->job;
    for (int64_t task = begin; task < end; task++) {
        int64_t panel = task % c->panels, b = task / c->panels % c->blocks, g = task / c->panels / c->blocks;
        float *to = c->packed + task * c->depth * COLUMNS;
        int64_t count = least(c->block, job->channels - b * c->block);
        int64_t outs = least(COLUMNS, job->out_channels - panel * COLUMNS);
        if (count < c->block || outs < COLUMNS) memset(to, 0, (size_t)(c->depth * COLUMNS) * 4);
        for (int64_t o = 0; o < outs; o++) {
            const float *from =
                job->weight + ((g * job->out_channels + panel * COLUMNS + o) * job->channels + b * c->block) * job->columns;
            for (int64_t k = 0; k < count; k++)
                for (int64_t r = 0; r < job->columns; r++) to[(r * c->block + k) * COLUMNS + o] = used(job, r, from[k * job->columns + r]);
        }
    }
}

static void tile_of(const cut_t *c, int64_t t, int64_t *n, int64_t *y0, int64_t *x0, int64_t *th, int64_t *tw) {
    *x0 = t % c->tiles_w * c->tile_w;
    *y0 = t / c->tiles_w % c->tiles_h * c->tile_h;
    *n = t / c->tiles_w / c->tiles_h;
    *th = least(c->tile_h, c->job->out_height - *y0);
    *tw = least(c->tile_w, c->job->out_width - *x0);
}

static void prepare_tile(const cut_t *c, int64_t n, int64_t g, int64_t b, int64_t y0, int64_t x0, float *tile) {
    const binned_t *job = c->job;
    int64_t count = least(c->block, job->channels - b * c->block);
    load_tile(c, n, g * job->channels + b * c->block, count, y0 * job->stride[0] - job->before[0],
              x0 * job->stride[1] - job->before[1], tile);
    make_tables(c, tile);
}

/* Write a tile [pixels, panels * COLUMNS] of one group to the output, with the bias. */
static void store_tile(const cut_t *c, int64_t n, int64_t g, int64_t y0, int64_t x0, int64_t th, int64_t tw, float *from) {
    const binned_t *job = c->job;
    const map_t *out = &job->output;
    const int64_t row = c->panels * COLUMNS, first = g * job->out_channels;
    for (int64_t i = 0; job->bias && i < th * tw; i++)
        for (int64_t o = 0; o < job->out_channels; o++) from[i * row + o] += job->bias[first + o];
    for (int64_t y = 0; y < th; y++) {
        int64_t at = n * out->n + first * out->c + (y0 + y) * out->h + x0 * out->w;
        const float *line = from + y * tw * row;
        if (out->c == 1)
            for (int64_t x = 0; x < tw; x++)
                write_line(out->data, at + x * out->w, 1, job->output_type, line + x * row, 1, job->out_channels);
        else
            for (int64_t o = 0; o < job->out_channels; o++)
                write_line(out->data, at + o * out->c, out->w, job->output_type, line + o, row, tw);
    }
}

static void forward_tiles(int64_t begin, int64_t end, void *context) {
    cut_t *c = context;
    const binned_t *job = c->job;
    const int64_t row = c->panels * COLUMNS, tiles = job->batch * c->tiles_h * c->tiles_w;
    float *tile = floats(c->plane * (1 + job->tables)), *sums = floats(ROWS * c->depth);
    float *out = floats(c->tile_h * c->tile_w * row);
    if (!tile || !sums || !out) c->failed = 1;
    for (int64_t task = begin; task < end && !c->failed; task++) {
        int64_t g = task / tiles, n, y0, x0, th, tw;
        tile_of(c, task % tiles, &n, &y0, &x0, &th, &tw);
        const int64_t parts = ceil_div(tw, ROWS), m_most = ceil_div(tw, parts);
        for (int64_t b = 0; b < c->blocks; b++) {
            prepare_tile(c, n, g, b, y0, x0, tile);
            const float *weight = c->packed + (g * c->blocks + b) * c->panels * c->depth * COLUMNS;
            for (int64_t y = 0; y < th; y++)
                for (int64_t x = 0; x < tw; x += m_most) {
                    int64_t m = least(m_most, tw - x);
                    const float *base = tile + (y * job->stride[0] * c->cols + x * job->stride[1]) * c->block;
                    sum_row(c, base, job->stride[1] * c->block, m, sums);
                    for (int64_t panel = 0; panel < c->panels; panel++)
                        product((int)m, sums, c->depth, weight + panel * c->depth * COLUMNS, c->depth,
                                out + (y * tw + x) * row + panel * COLUMNS, row, b == 0);
                }
        }
        store_tile(c, n, g, y0, x0, th, tw, out);
    }
    free(tile);
    free(sums);
    free(out);
}

/* One weight a column and channel (groups = channels): the sums are weighted and added up in registers. */
INLINE void depthwise_pixels(const cut_t *c, const float *base, int64_t step, const int pixels, const int wide,
                             const float *weight, float *out) {
    const int32_t *first = c->job->first;
    vec total[4];
#pragma GCC unroll 4
    for (int v = 0; v < pixels * wide; v++) total[v] = (vec){0};
    for (int64_t r = 0; r < c->job->columns; r++) {
        vec acc[4];
#pragma GCC unroll 4
        for (int v = 0; v < pixels * wide; v++) acc[v] = (vec){0};
        for (int64_t i = first[r]; i < first[r + 1]; i++) {
            const float *q = base + c->where[i];
#pragma GCC unroll 4
            for (int v = 0; v < pixels * wide; v++) acc[v] += load(q + (v / wide) * step + (v % wide) * LANES);
        }
#pragma GCC unroll 4
        for (int v = 0; v < pixels * wide; v++) total[v] += acc[v] * load(weight + r * c->block + (v % wide) * LANES);
    }
#pragma GCC unroll 4
    for (int v = 0; v < pixels * wide; v++) store(out + (v / wide) * c->block + (v % wide) * LANES, total[v]);
}

static void depthwise_tiles(int64_t begin, int64_t end, void *context) {
    cut_t *c = context;
    const binned_t *job = c->job;
    const int64_t block = c->block, step = job->stride[1] * block;
    float *tile = floats(c->plane * (1 + job->tables)), *weight = floats(c->depth), *out = floats((c->tile_w + 8) * block);
    if (!tile || !weight || !out) c->failed = 1;
    for (int64_t task = begin; task < end && !c->failed; task++) {
        int64_t b = task % c->blocks, n, y0, x0, th, tw;
        tile_of(c, task / c->blocks, &n, &y0, &x0, &th, &tw);
        int64_t count = least(block, job->channels - b * block);
        prepare_tile(c, n, 0, b, y0, x0, tile);
        memset(weight, 0, (size_t)c->depth * 4);
        for (int64_t k = 0; k < count; k++)
            for (int64_t r = 0; r < job->columns; r++)
                weight[r * block + k] = used(job, r, job->weight[(b * block + k) * job->columns + r]);
        for (int64_t y = 0; y < th; y++) {
            const float *base = tile + y * job->stride[0] * c->cols * block;
            int64_t x = 0;
#define SUMS(pixels, vectors)                                                                                       \
    for (; x + pixels <= tw; x += pixels) depthwise_pixels(c, base + x * step, step, pixels, vectors, weight, out + x * block); \
    for (; x < tw; x++) depthwise_pixels(c, base + x * step, step, 1, vectors, weight, out + x * block);
            if (block == LANES) {
                SUMS(4, 1)
            } else if (block == 2 * LANES) {
                SUMS(2, 2)
            } else if (block == 4 * LANES) {
                SUMS(1, 4)
            } else
                for (; x < tw; x++)
                    for (int64_t v = 0; v < block; v += 4 * LANES)
                        depthwise_pixels(c, base + x * step + v, step, 1, 4, weight + v, out + x * block + v);
#undef SUMS
            const map_t *to = &job->output;
            int64_t at = n * to->n + b * block * to->c + (y0 + y) * to->h + x0 * to->w;
            for (x = 0; job->bias && x < tw; x++)
                for (int64_t k = 0; k < count; k++) out[x * block + k] += job->bias[b * block + k];
            if (to->c == 1)
                for (x = 0; x < tw; x++) write_line(to->data, at + x * to->w, 1, job->output_type, out + x * block, 1, count);
            else
                for (int64_t k = 0; k < count; k++)
                    write_line(to->data, at + k * to->c, to->w, job->output_type, out + k, block, tw);
        }
    }
    free(tile);
    free(weight);
    free(out);
}

/* The gradient of the output arrives in job->output. */
static void weight_tiles(int64_t begin, int64_t end, void *context) {
    cut_t *c = context;
    const binned_t *job = c->job;
    enum { STRIP = 32 };
    const int64_t row = c->panels * COLUMNS, tiles = job->batch * c->tiles_h * c->tiles_w;
    float *tile = floats(c->plane * (1 + job->tables)), *sums = floats(STRIP * c->depth), *grad = floats(STRIP * row);
    if (!tile || !sums || !grad) c->failed = 1;
    for (int64_t task = begin; task < end && !c->failed; task++) {
        int64_t slot = task % job->slots, b = task / job->slots % c->blocks, g = task / job->slots / c->blocks;
        float *to = c->partial + task * c->depth * row;
        memset(to, 0, (size_t)(c->depth * row) * 4);
        for (int64_t t = tiles * slot / job->slots; t < tiles * (slot + 1) / job->slots; t++) {
            int64_t n, y0, x0, th, tw;
            tile_of(c, t, &n, &y0, &x0, &th, &tw);
            prepare_tile(c, n, g, b, y0, x0, tile);
            for (int64_t y = 0; y < th; y++)
                for (int64_t x = 0; x < tw; x += STRIP) {
                    int64_t m = least(STRIP, tw - x);
                    const float *base = tile + (y * job->stride[0] * c->cols + x * job->stride[1]) * c->block;
                    sum_row(c, base, job->stride[1] * c->block, m, sums);
                    const map_t *from = &job->output;
                    int64_t at = n * from->n + g * job->out_channels * from->c + (y0 + y) * from->h + (x0 + x) * from->w;
                    if (from->c == 1)
                        for (int64_t i = 0; i < m; i++)
                            read_line(from->data, at + i * from->w, 1, job->output_type, grad + i * row, 1, job->out_channels);
                    else
                        for (int64_t o = 0; o < job->out_channels; o++)
                            read_line(from->data, at + o * from->c, from->w, job->output_type, grad + o, row, m);
                    for (int64_t i = 0; i < m; i++)
                        memset(grad + i * row + job->out_channels, 0, (size_t)(row - job->out_channels) * 4);
                    for (int64_t panel = 0; panel < c->panels; panel++)
                        product_transposed(m, sums, c->depth, c->depth, grad + panel * COLUMNS, row, to + panel * COLUMNS, row);
                }
        }
    }
    free(tile);
    free(sums);
    free(grad);
}

/* Add up the partial sums in the order of their slots. */
static void weight_total(int64_t begin, int64_t end, void *context) {
    cut_t *c = context;
    const binned_t *job = c->job;
    const int64_t row = c->panels * COLUMNS, size = c->depth * row;
    for (int64_t task = begin; task < end; task++) {
        int64_t o = task % job->out_channels, g = task / job->out_channels;
        for (int64_t k = 0; k < job->channels; k++) {
            const float *from = c->partial + (g * c->blocks + k / c->block) * job->slots * size + (k % c->block) * row + o;
            float *to = job->gradient + (task * job->channels + k) * job->columns;
            for (int64_t r = 0; r < job->columns; r++) {
                float total = 0;
                for (int64_t slot = 0; slot < job->slots; slot++) total += from[slot * size + r * c->block * row];
                to[r] = total;
            }
        }
    }
}

/* Each returns 0, or 1 when there was no memory. */
int FOVEAL(binned_forward)(const binned_t *job) {
    cut_t c;
    cut(job, &c);
    int64_t *where = places(&c);
    c.where = where;
    c.packed = floats(job->groups * c.blocks * c.panels * c.depth * COLUMNS);
    c.failed = !where || !c.packed;
    if (!c.failed) {
        parallel(job->groups * c.blocks * c.panels, pack, &c);
        parallel(job->groups * job->batch * c.tiles_h * c.tiles_w, forward_tiles, &c);
    }
    free(where);
    free(c.packed);
    return c.failed;
}

/* groups = channels = out_channels in torch's terms: here one group, whose channels do not mix. */
int FOVEAL(binned_depthwise)(const binned_t *job) {
    cut_t c;
    cut(job, &c);
    int64_t *where = places(&c);
    c.where = where;
    c.failed = !where;
    if (!c.failed) parallel(job->batch * c.tiles_h * c.tiles_w * c.blocks, depthwise_tiles, &c);
    free(where);
    return c.failed;
}

int FOVEAL(binned_weight_gradient)(const binned_t *job) {
    cut_t c;
    cut(job, &c);
    int64_t *where = places(&c);
    c.where = where;
    c.partial = floats(job->groups * c.blocks * job->slots * c.depth * c.panels * COLUMNS);
    c.failed = !where || !c.partial;
    if (!c.failed) {
        parallel(job->groups * c.blocks * job->slots, weight_tiles, &c);
        parallel(job->groups * job->out_channels, weight_total, &c);
    }
    free(where);
    free(c.partial);
    return c.failed;
}
