/* Binned convolution: the sums over the pixels of each bin (binned.h) fed to a matrix product, or weighted channel by channel;
 * and the gradient of the weight. */
#include "binned.h"

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

/* The sums of some output rows from row y of the strip on, one row below the other. */
static void sum_rows(strip_t *s, int64_t y, int64_t rows, float *sums) {
    const int64_t size = s->width * s->c->line;
    for (int64_t r = 0; r < rows; r++) {
        go_down(s, y + r);
#ifdef TILES
        if (s->c->narrow) {
            sum_row_narrow(s, (uint16_t *)sums + r * size);
            continue;
        }
#endif
        sum_row(s, sums + r * size);
    }
}

/* Sums of some rows times the weight, to outputs `step` floats from pixel to pixel and `apart` from row to row. */
static void multiply_rows(const strip_t *s, int64_t rows, const float *sums, const float *weight, const float *bias, float *to, int64_t step, int64_t apart) {
    const cut_t *c = s->c;
    const int64_t outs = c->job->out_channels, columns = c->job->columns;
#ifdef TILES
    if (c->narrow) {
        multiply_tiles(rows * s->width, (const uint16_t *)sums, c->line, c->tiles + (weight - c->packed), columns * c->block, outs, to, step, bias);
        return;
    }
#endif
    const int64_t together = apart == s->width * step ? rows : 1; /* rows of the output may lie together */
    for (int64_t r = 0; r < rows; r += together)
        multiply(together * s->width, sums + r * s->width * c->line, c->line, weight, columns * s->count, outs, to + r * apart, step, bias);
}

/* One strip of one group: the blocks of channels add to its outputs one after the other, `made` where those cannot. */
static void forward_strip(strip_t *s, int64_t g, int64_t strip, float *sums, float *made) {
    const cut_t *c = s->c;
    const binned_t *job = c->job;
    const map_t *out = &job->output;
    int64_t n, y0, x0, height, width;
    place(c, strip, &n, &y0, &x0, &height, &width);
    const int64_t at = slice_at(job, n) + g * job->out_channels * out->c + y0 * out->h + x0 * out->w;
    const int64_t step = c->direct ? out->w : c->row, apart = c->direct ? out->h : width * c->row;
    float *to = c->direct ? (float *)out->data + at : made;
    for (int64_t b = 0; b < c->blocks; b++) {
        const float *weight = c->packed + (g * c->blocks + b) * c->panels * job->columns * c->block * COLUMNS;
        begin_strip(s, n, g, b, y0, x0, width);
        for (int64_t y = 0; y < height; y += c->rows) {
            const int64_t rows = least(c->rows, height - y);
            sum_rows(s, y, rows, sums);
            multiply_rows(s, rows, sums, weight, b ? 0 : c->bias + g * c->row, to + y * apart, step, apart);
        }
    }
    for (int64_t y = 0; made && y < height; y++)
        write_pixels(out->data, at + y * out->h, out->w, out->c, job->output_type, width, job->out_channels, made + y * width * c->row, c->row);
}

static void forward_strips(int64_t begin, int64_t end, void *context) {
    cut_t *c = context;
    const int64_t strips = c->job->slices * c->strips_h * c->strips_w;
    strip_t s;
    float *sums = floats(up(c->rows * c->strip_w, 32) * c->line), *made = c->direct ? 0 : floats(c->strip_h * c->strip_w * c->row);
#ifdef TILES
    if (c->narrow) begin_tiles();
#endif
    if (!hold_strip(c, &s) || !sums || (!c->direct && !made)) c->failed = 1;
    for (int64_t task = begin; task < end && !c->failed; task++) forward_strip(&s, task / strips, task % strips, sums, made);
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
                sum_rows(&s, y, rows, sums);
                for (int64_t r = 0; r < rows && !together; r++)
                    read_pixels(from->data, start + (y + r) * from->h, from->w, from->c, job->output_type, width, job->out_channels,
                                up(job->out_channels, LANES), copy + r * width * c->row, c->row);
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
