/* Frame -> smaller grey picture, in one pass over the frame. Calls the average_rows and average_columns kernels of a backend.
 *
 * Each output pixel is the mean of the area that it covers; pixels on its border count in part. Vertical first, on the bytes as
 * they lie, whatever their channels mean: contiguous and wide. Then a few averaged rows together, horizontally and to grey.
 *
 * Integers throughout: every instruction set gives the same bytes.
 */
#include "backend.h"

enum {
    LANES_MAX = 16,     /* output rows that are averaged together */
    WEIGHT_BITS = 8,    /* weights along one axis sum to 2^8: sums of weighted bytes fit 16 bits */
    LUMA_BITS = 14,     /* ITU-R BT.601, as other libraries round it */
    RED = 4899, GREEN = 9617, BLUE = 1868,
    CHANNELS_MAX = 4,
    PADDING = 8, /* elements behind a row of sums, which are turned along in whole vectors */
};

/* Of source pixels first..last-1 along an axis of `from` pixels, which output i of `to` covers. */
typedef struct span {
    int first, last;
} span;

static span span_of(int from, int to, int i) {
    const int64_t start = (int64_t)i * from, end = start + from;
    return (span){(int)(start / to), (int)((end + to - 1) / to)};
}

/* The weight of output i's source pixels up to s, of 2^WEIGHT_BITS. */
static int weight_up_to(int from, int to, int i, int s) {
    const int64_t start = (int64_t)i * from, end = start + from, border = (int64_t)(s + 1) * to;
    const int64_t covered = border > end ? from : border - start;
    /* At most `from`, so that 32 bits hold it; dividing 64 bits takes three times as long. */
    return (int)((((uint32_t)covered << WEIGHT_BITS) + (uint32_t)from / 2) / (uint32_t)from);
}

static int taps_max(int from, int to) { return from / to + 2; }

static int channels_of(mxn_color color) {
    return color == MXN_COLOR_GRAY ? 1 : color == MXN_COLOR_RGB || color == MXN_COLOR_BGR ? 3 : 4;
}

/* The parts of the scratch memory; the same function measures it and lays it out. */
typedef struct layout {
    int channels, elements; /* of a source row */
    int taps;               /* products of an output pixel, at most */
    size_t pitch;           /* of sum */
    uint16_t *sum;          /* LANES_MAX averaged rows */
    uint16_t *turned;       /* the same, element-in-rows */
    uint32_t *weight;       /* [width][taps], each twice */
    mxn_scale_column *column; /* [width] */
    uint8_t *gathered; /* source rows whose pixels are not contiguous: MXN_SCALE_ROWS of them */
    size_t bytes;
} layout;

static bool lay_out(layout *l, const mxn_image *image, int width, int height, char *memory) {
    if (image->width < 1 || image->width > MXN_IMAGE_SIDE_MAX || image->height < 1 || image->height > MXN_IMAGE_SIDE_MAX ||
        image->color < MXN_COLOR_GRAY || image->color > MXN_COLOR_BGRA || width < 1 || width > image->width || height < 1 ||
        height > image->height)
        return false;
    l->channels = channels_of(image->color);
    l->elements = image->width * l->channels;
    l->taps = taps_max(image->width, width) * l->channels;
    l->pitch = (size_t)l->elements + PADDING;
    const struct {
        void **part;
        size_t bytes;
    } parts[] = {
        {(void **)&l->sum, l->pitch * LANES_MAX * sizeof *l->sum},
        {(void **)&l->turned, l->pitch * LANES_MAX * sizeof *l->turned},
        {(void **)&l->weight, (size_t)width * (size_t)l->taps * sizeof *l->weight},
        {(void **)&l->column, (size_t)width * sizeof *l->column},
        {(void **)&l->gathered, l->pitch * MXN_SCALE_ROWS},
    };
    size_t offset = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (memory) *parts[i].part = memory + offset;
        offset += (parts[i].bytes + MXN_ALIGNMENT - 1) / MXN_ALIGNMENT * MXN_ALIGNMENT;
    }
    l->bytes = offset;
    return true;
}

size_t mxn_scale_scratch_bytes(const mxn_image *image, int width, int height) {
    layout l;
    return lay_out(&l, image, width, height, NULL) ? l.bytes : 0;
}

/* Weights of the horizontal mean times those of the channels, in units of 2^-16. */
static void fill_weights(const layout *l, const mxn_image *image, int width) {
    static const int32_t luma[][CHANNELS_MAX] = {
        [MXN_COLOR_GRAY] = {RED + GREEN + BLUE}, [MXN_COLOR_RGB] = {RED, GREEN, BLUE},  [MXN_COLOR_BGR] = {BLUE, GREEN, RED},
        [MXN_COLOR_RGBA] = {RED, GREEN, BLUE, 0}, [MXN_COLOR_BGRA] = {BLUE, GREEN, RED, 0},
    };
    enum { SHIFT = WEIGHT_BITS + LUMA_BITS - 16 };
    for (int x = 0; x < width; x++) {
        const span s = span_of(image->width, width, x);
        uint32_t *weight = l->weight + (size_t)x * (size_t)l->taps;
        const int count = (s.last - s.first) * l->channels;
        /* Each product is cut to a whole number, half of one too small on average; of black, nothing is cut. */
        const int products = l->channels == 4 ? count / 4 * 3 : count, cut = products < 200 ? products / 2 : 100;
        l->column[x] = (mxn_scale_column){s.first * l->channels, count, (uint16_t)((1 << (WEIGHT_BITS - 1)) + cut)};
        for (int p = s.first, before = 0; p < s.last; p++) {
            const int up_to = weight_up_to(image->width, width, x, p);
            for (int c = 0; c < l->channels; c++) {
                const int32_t w = ((up_to - before) * luma[image->color][c] + (1 << (SHIFT - 1))) >> SHIFT;
                *weight++ = (uint32_t)(w > UINT16_MAX ? UINT16_MAX : w) * 0x10001u;
            }
            before = up_to;
        }
    }
}

/* A row of the image as contiguous bytes, channel after channel: in place where it lies so. */
static const uint8_t *row_of(const layout *l, const mxn_image *image, int y, uint8_t *gathered) {
    const uint8_t *row = image->data + y * image->row_stride;
    const bool contiguous = image->column_stride == l->channels && (l->channels == 1 || image->channel_stride == 1);
    if (contiguous) return row;
    for (int x = 0; x < image->width; x++)
        for (int c = 0; c < l->channels; c++) gathered[x * l->channels + c] = row[x * image->column_stride + c * image->channel_stride];
    return gathered;
}

/* Output row y as weighted bytes. */
static void average(const mxn_backend *backend, const layout *l, const mxn_image *image, int height, int y, uint16_t *sum) {
    const span s = span_of(image->height, height, y);
    const uint8_t *rows[MXN_SCALE_ROWS];
    uint16_t weight[MXN_SCALE_ROWS];
    int count = 0, before = 0;
    bool add = false;
    for (int i = s.first; i < s.last; i++) {
        const int up_to = weight_up_to(image->height, height, y, i), w = up_to - before;
        before = up_to;
        if (w > 0) {
            rows[count] = row_of(l, image, i, l->gathered + l->pitch * (size_t)count);
            weight[count++] = (uint16_t)w;
        }
        if (count == MXN_SCALE_ROWS || (i == s.last - 1 && count > 0)) {
            backend->float32->average_rows(rows, weight, count, l->elements, count * image->row_stride, add, sum);
            add = true;
            count = 0;
        }
    }
}

mxn_status mxn_scale_gray(const mxn_backend *backend, const mxn_image *image, int width, int height, uint8_t *out,
                          void *scratch, size_t scratch_bytes) {
    layout l;
    if (!lay_out(&l, image, width, height, scratch)) return MXN_ERROR_ARGUMENT;
    if (scratch_bytes < l.bytes || (uintptr_t)scratch % MXN_ALIGNMENT != 0) return MXN_ERROR_MEMORY;
    fill_weights(&l, image, width);
    const int lanes = backend->float32->scale_lanes;
    for (int y = 0; y < height; y += lanes) {
        const int rows = height - y < lanes ? height - y : lanes;
        for (int r = 0; r < rows; r++) average(backend, &l, image, height, y + r, l.sum + l.pitch * (size_t)r);
        backend->float32->average_columns(l.sum, l.pitch, l.elements, l.column, width, l.weight, l.taps, l.turned, rows,
                                          out + (size_t)y * (size_t)width);
    }
    return MXN_OK;
}
