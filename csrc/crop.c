/* Box of an image -> square grey picture, in one pass over the box's rows. Calls the row kernels of a backend.
 *
 * Separable triangle filter, vertical first: source rows are converted to grey once, and eight at a time added to the output
 * rows that they touch (each touches two when reducing), so that the wide dimension runs over contiguous floats and only a few
 * rows are ever kept. Sixteen finished output rows at a time are then resampled horizontally.
 */
#include <math.h>
#include <string.h>

#include "backend.h"

enum {
    GRAY_ROWS = 8, /* that are added together: more of them leave the first-level cache */
    PREFETCHED_ROWS = 4,
};

/* One axis. Output i is the sum of weight[i][t] * source[begin + first[i] + t] over t < last[i] - first[i]; source is counted
 * in pixels of the image and may lie outside it. */
typedef struct axis {
    double start, extent; /* of the box */
    int size;
    int32_t begin, end; /* source pixels that are read */
    int taps;           /* of an output, at most */
    int open;           /* outputs that one source pixel touches, at most */
    int32_t *first;     /* [size] */
    int32_t *last;      /* [size]; one past the last tap */
    float *weight;      /* [size][taps] */
} axis;

/* Half the width of the filter in source pixels: grows with the reduction, so that every pixel counts. */
static double filter_support(const axis *a) { return a->extent > a->size ? a->extent / a->size : 1.0; }

static double filter_center(const axis *a, int i) { return a->start + (i + 0.5) * (a->extent / a->size); }

/* floor() is a call where the CPU's baseline has no instruction for it. */
static int32_t whole(double x) {
    const int32_t n = (int32_t)x;
    return n - (x < n);
}

static axis axis_of(double start, double extent, int size) {
    axis a = {.start = start, .extent = extent, .size = size};
    const double support = filter_support(&a);
    a.begin = whole(filter_center(&a, 0) - support + 0.5);
    a.end = whole(filter_center(&a, size - 1) + support + 0.5);
    a.taps = (int)(2 * support) + 2;
    const double open = 2 * support * size / extent + 2;
    a.open = open < size ? (int)open : size;
    return a;
}

/* By value, so that the compiler knows that nothing it writes is part of it. */
static void fill_axis(const axis a) {
    const double support = filter_support(&a), slope = 1 / support;
    for (int i = 0; i < a.size; i++) {
        const double center = filter_center(&a, i);
        const int32_t begin = whole(center - support + 0.5), end = whole(center + support + 0.5);
        float *weight = a.weight + (size_t)i * a.taps;
        double sum = 0;
        for (int32_t s = begin; s < end; s++) {
            const double w = 1.0 - fabs(s + 0.5 - center) * slope;
            weight[s - begin] = (float)w;
            sum += w;
        }
        const float scale = (float)(1 / sum);
        for (int t = 0; t < end - begin; t++) weight[t] *= scale;
        a.first[i] = begin - a.begin;
        a.last[i] = end - a.begin;
    }
}

/* The parts of the scratch memory; the same function measures it and lays it out. */
typedef struct layout {
    axis x, y;
    float *gray;  /* GRAY_ROWS source rows of `pitch` floats, with what lies beyond the image's borders */
    float *rows;  /* MXN_CROP_ROWS finished output rows and y.open others, as long */
    float *block; /* of resample_block */
    size_t pitch;
    size_t bytes;
} layout;

static bool lay_out(layout *l, mxn_box box, int size, char *memory) {
    const double farthest = 1 << 24;
    if (!(fabs(box.x) <= farthest && fabs(box.y) <= farthest) || !(box.width > 0 && box.width <= MXN_BOX_SIDE_MAX) ||
        !(box.height > 0 && box.height <= MXN_BOX_SIDE_MAX) || size < 1 || size > MXN_CROP_SIZE_MAX)
        return false;
    l->x = axis_of(box.x, box.width, size);
    l->y = axis_of(box.y, box.height, size);
    l->pitch = ((size_t)(l->x.end - l->x.begin) + MXN_CROP_ROWS - 1) / MXN_CROP_ROWS * MXN_CROP_ROWS;
    const struct {
        void **part;
        size_t count; /* of 4-byte elements */
    } parts[] = {
        {(void **)&l->x.first, size}, {(void **)&l->x.last, size}, {(void **)&l->x.weight, (size_t)l->x.taps * size},
        {(void **)&l->y.first, size}, {(void **)&l->y.last, size}, {(void **)&l->y.weight, (size_t)l->y.taps * size},
        {(void **)&l->gray, l->pitch * GRAY_ROWS}, {(void **)&l->rows, l->pitch * (MXN_CROP_ROWS + (size_t)l->y.open)},
        {(void **)&l->block, l->pitch * MXN_CROP_ROWS},
    };
    size_t offset = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (memory) *parts[i].part = memory + offset;
        offset += (parts[i].count * 4 + MXN_ALIGNMENT - 1) / MXN_ALIGNMENT * MXN_ALIGNMENT;
    }
    l->bytes = offset;
    return true;
}

size_t mxn_crop_scratch_bytes(mxn_box box, int size) {
    layout l;
    return lay_out(&l, box, size, NULL) ? l.bytes : 0;
}

/* Channel c is `c * step` bytes into a pixel, in ascending order. */
typedef struct pixel_layout {
    const uint8_t *data;
    ptrdiff_t offset[3];
    int32_t luma[3];
} pixel_layout;

static pixel_layout pixel_layout_of(const mxn_image *image) {
    /* ITU-R BT.601 in units of 2^-14, as other libraries round it. */
    enum { RED = 4899, GREEN = 9617, BLUE = 1868 };
    pixel_layout p = {.data = image->data};
    const ptrdiff_t step = image->channel_stride;
    switch (image->color) {
    case MXN_COLOR_GRAY:
        p.luma[0] = RED + GREEN + BLUE;
        return p;
    case MXN_COLOR_RGB:
    case MXN_COLOR_RGBA:
        p.luma[0] = RED, p.luma[1] = GREEN, p.luma[2] = BLUE;
        break;
    case MXN_COLOR_BGR:
    case MXN_COLOR_BGRA:
        p.luma[0] = BLUE, p.luma[1] = GREEN, p.luma[2] = RED;
        break;
    }
    if (step < 0) {
        const int32_t first = p.luma[0];
        p.data += 2 * step;
        p.luma[0] = p.luma[2], p.luma[2] = first;
    }
    p.offset[1] = step < 0 ? -step : step;
    p.offset[2] = 2 * p.offset[1];
    return p;
}

static int clamp(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

/* One image row, from column x.begin to x.end, its border pixels repeated outward, and zeros to the end of the pitch. */
static void convert_row(const mxn_backend *backend, const mxn_image *image, const pixel_layout *pixels, const layout *l,
                        int y, float *gray) {
    const int begin = clamp(l->x.begin, 0, image->width - 1), end = clamp(l->x.end, begin + 1, image->width);
    const int length = l->x.end - l->x.begin;
    const int before = clamp(begin - l->x.begin, 0, length - 1), count = end - begin;
    const uint8_t *start = pixels->data + y * image->row_stride + begin * image->column_stride;
    /* The rows are far apart, and too short for the CPU to see where they lead. */
    const uintptr_t ahead = (uintptr_t)start + (uintptr_t)(PREFETCHED_ROWS * image->row_stride);
    for (ptrdiff_t i = 0; i < count * image->column_stride; i += MXN_CACHE_LINE) __builtin_prefetch((const void *)(ahead + (uintptr_t)i));
    backend->float32->gray_row(start, image->column_stride, pixels->offset, pixels->luma, count, gray + before);
    for (int i = 0; i < before; i++) gray[i] = gray[before];
    for (int i = before + count; i < length; i++) gray[i] = gray[before + count - 1];
    for (size_t i = (size_t)length; i < l->pitch; i++) gray[i] = 0;
}

mxn_status mxn_crop_gray(const mxn_backend *backend, const mxn_image *image, mxn_box box, int size, uint8_t *out,
                         void *scratch, size_t scratch_bytes) {
    layout l;
    if (image->width < 1 || image->width > MXN_IMAGE_SIDE_MAX || image->height < 1 || image->height > MXN_IMAGE_SIDE_MAX ||
        image->color < MXN_COLOR_GRAY || image->color > MXN_COLOR_BGRA || !lay_out(&l, box, size, scratch))
        return MXN_ERROR_ARGUMENT;
    if (scratch_bytes < l.bytes || (uintptr_t)scratch % MXN_ALIGNMENT != 0) return MXN_ERROR_MEMORY;
    fill_axis(l.x);
    fill_axis(l.y);

    const pixel_layout pixels = pixel_layout_of(image);
    const int length = l.x.end - l.x.begin, rows = l.y.end - l.y.begin, kept = MXN_CROP_ROWS + l.y.open;
    int next = 0; /* the first output row that is not finished */
    for (int s = 0; s < rows; s += GRAY_ROWS) {
        const int end = s + GRAY_ROWS < rows ? s + GRAY_ROWS : rows;
        const float *gray[GRAY_ROWS];
        int converted = -1; /* the image row before */
        for (int i = 0; i < end - s; i++) {
            const int y = clamp(l.y.begin + s + i, 0, image->height - 1);
            float *row = l.gray + l.pitch * (size_t)i;
            gray[i] = y == converted ? gray[i - 1] : row;
            if (y != converted) convert_row(backend, image, &pixels, &l, y, row);
            converted = y;
        }
        for (int o = next; o < size && l.y.first[o] < end; o++) {
            const int first = l.y.first[o] > s ? l.y.first[o] : s, last = l.y.last[o] < end ? l.y.last[o] : end;
            const float *weight = l.y.weight + (size_t)o * l.y.taps + (first - l.y.first[o]);
            backend->float32->accumulate_rows(gray + (first - s), weight, last - first, length, first > l.y.first[o],
                                              l.rows + l.pitch * (size_t)(o % kept));
            if (l.y.last[o] > end) continue;
            next = o + 1;
            const int in_block = o % MXN_CROP_ROWS, start = o - in_block;
            if (in_block < MXN_CROP_ROWS - 1 && o < size - 1) continue;
            const float *block[MXN_CROP_ROWS];
            for (int i = 0; i < MXN_CROP_ROWS; i++)
                block[i] = l.rows + l.pitch * (size_t)((start + (i < in_block ? i : in_block)) % kept);
            backend->float32->resample_block(block, length, l.block, l.x.first, l.x.last, l.x.weight, l.x.taps, size,
                                             in_block + 1, out + (size_t)start * size);
        }
    }
    return MXN_OK;
}
