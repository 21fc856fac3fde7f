/* Frame -> smaller grey picture, in one pass over the frame. Calls the average_rows kernel of a backend.
 *
 * Each output pixel is the mean of the area that it covers; pixels on its border count in part. Vertical first, on the bytes as
 * they lie, whatever their channels mean: contiguous and wide. Eight averaged rows are turned so that the same element of
 * each fills a vector; what is left, the horizontal mean and the conversion to grey, is then one sum of products.
 *
 * Integers throughout: every instruction set gives the same bytes.
 */
#include <string.h>

#include "backend.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

enum {
    ROWS = 8,           /* output rows that are turned together */
    WEIGHT_BITS = 8,    /* weights along one axis sum to 2^8: sums of weighted bytes fit 16 bits */
    LUMA_BITS = 14,     /* ITU-R BT.601, as other libraries round it */
    RED = 4899, GREEN = 9617, BLUE = 1868,
    CHANNELS_MAX = 4,
    PADDING = 8, /* elements behind a row of sums, which are turned along in whole vectors */
};

typedef uint16_t u16x8 __attribute__((vector_size(16)));

/* The upper halves of the products. */
static inline u16x8 multiply_high(u16x8 a, u16x8 b) {
#if defined(__SSE2__)
    return (u16x8)_mm_mulhi_epu16((__m128i)a, (__m128i)b);
#elif defined(__ARM_NEON)
    const uint16x8_t v = (uint16x8_t)a, w = (uint16x8_t)b;
    return (u16x8)vcombine_u16(vshrn_n_u32(vmull_u16(vget_low_u16(v), vget_low_u16(w)), 16),
                               vshrn_n_u32(vmull_u16(vget_high_u16(v), vget_high_u16(w)), 16));
#else
    for (int i = 0; i < ROWS; i++) a[i] = (uint16_t)(((uint32_t)a[i] * b[i]) >> 16);
    return a;
#endif
}

/* Weights are rounded: their sum may be a little above one. */
static inline u16x8 add_saturated(u16x8 a, u16x8 b) {
#if defined(__SSE2__)
    return (u16x8)_mm_adds_epu16((__m128i)a, (__m128i)b);
#elif defined(__ARM_NEON)
    return (u16x8)vqaddq_u16((uint16x8_t)a, (uint16x8_t)b);
#else
    for (int i = 0; i < ROWS; i++) a[i] = (uint16_t)(a[i] > UINT16_MAX - b[i] ? UINT16_MAX : a[i] + b[i]);
    return a;
#endif
}

#if defined(__clang__)
#define INTERLEAVE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define INTERLEAVE(a, b, ...) __builtin_shuffle(a, b, (u16x8){__VA_ARGS__})
#endif
static inline u16x8 interleave_low(u16x8 a, u16x8 b) { return INTERLEAVE(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
static inline u16x8 interleave_high(u16x8 a, u16x8 b) { return INTERLEAVE(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }

/* src: 8 rows of `pitch` elements; dst: element-in-8 rows. */
static void turn(const uint16_t *src, size_t pitch, int count, u16x8 *dst) {
    for (int i = 0; i < count; i += 8) {
        u16x8 v[8], t[8];
        for (int r = 0; r < 8; r++) memcpy(&v[r], src + pitch * (size_t)r + i, sizeof v[r]);
        /* Three rounds of interleaving rows that are 4 apart move element (r, i) to (i, r). */
        for (int round = 0; round < 3; round++) {
            for (int r = 0; r < 4; r++) {
                t[2 * r] = interleave_low(v[r], v[r + 4]);
                t[2 * r + 1] = interleave_high(v[r], v[r + 4]);
            }
            memcpy(v, t, sizeof v);
        }
        memcpy(dst + i, v, sizeof v);
    }
}

/* Of source pixels first..last-1 along an axis of `from` pixels, which output i of `to` covers. */
typedef struct span {
    int first, last;
} span;

static span span_of(int from, int to, int i) {
    const int64_t start = (int64_t)i * from, end = start + from;
    return (span){(int)(start / to), (int)((end + to - 1) / to)};
}

/* The weight of source pixel s; those of an output sum to 2^WEIGHT_BITS. */
static int weight_of(int from, int to, int i, int s) {
    const int64_t start = (int64_t)i * from, end = start + from;
    const int64_t low = (int64_t)s * to < start ? start : (int64_t)s * to;
    const int64_t high = (int64_t)(s + 1) * to > end ? end : (int64_t)(s + 1) * to;
    const int64_t half = from / 2;
    return (int)((((high - start) << WEIGHT_BITS) + half) / from - (((low - start) << WEIGHT_BITS) + half) / from);
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
    uint16_t *sum;          /* ROWS averaged rows */
    u16x8 *turned;          /* element-in-ROWS rows */
    u16x8 *weight;          /* [width][taps], each as often as a vector wants it */
    int32_t *first;         /* [width + 1]: first element, and number of products */
    int32_t *count;
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
        {(void **)&l->sum, l->pitch * ROWS * sizeof *l->sum},
        {(void **)&l->turned, l->pitch * sizeof *l->turned},
        {(void **)&l->weight, (size_t)width * (size_t)l->taps * sizeof *l->weight},
        {(void **)&l->first, (size_t)width * sizeof *l->first},
        {(void **)&l->count, (size_t)width * sizeof *l->count},
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
        u16x8 *weight = l->weight + (size_t)x * (size_t)l->taps;
        l->first[x] = s.first * l->channels;
        l->count[x] = (s.last - s.first) * l->channels;
        for (int p = s.first; p < s.last; p++)
            for (int c = 0; c < l->channels; c++) {
                const int32_t w = (weight_of(image->width, width, x, p) * luma[image->color][c] + (1 << (SHIFT - 1))) >> SHIFT;
                *weight++ = (u16x8){0} + (uint16_t)(w > UINT16_MAX ? UINT16_MAX : w);
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
    int count = 0;
    bool add = false;
    for (int i = s.first; i < s.last; i++) {
        const int w = weight_of(image->height, height, y, i);
        if (w > 0) {
            rows[count] = row_of(l, image, i, l->gathered + l->pitch * (size_t)count);
            weight[count++] = (uint16_t)w;
        }
        if (count == MXN_SCALE_ROWS || (i == s.last - 1 && count > 0)) {
            backend->float32->average_rows(rows, weight, count, l->elements, add, sum);
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
    for (int y = 0; y < height; y += ROWS) {
        const int rows = height - y < ROWS ? height - y : ROWS;
        for (int r = 0; r < rows; r++) average(backend, &l, image, height, y + r, l.sum + l.pitch * (size_t)r);
        turn(l.sum, l.pitch, l.elements, l.turned);
        const u16x8 *weight = l.weight;
        for (int x = 0; x < width; x++, weight += l.taps) {
            const u16x8 *element = l.turned + l.first[x];
            /* Each product is cut to a whole number, half of one too small on average; of black, nothing is cut. */
            const int products = l.channels == 4 ? l.count[x] / 4 * 3 : l.count[x], cut = products < 200 ? products / 2 : 100;
            u16x8 sum = (u16x8){0} + (uint16_t)((1 << (WEIGHT_BITS - 1)) + cut);
            for (int i = 0; i < l.count[x]; i++) sum = add_saturated(sum, multiply_high(element[i], weight[i]));
            sum >>= WEIGHT_BITS;
            for (int r = 0; r < rows; r++) out[(size_t)(y + r) * (size_t)width + (size_t)x] = (uint8_t)sum[r];
        }
    }
    return MXN_OK;
}
