/* The face detector: frame -> reduced grey picture -> network -> cells -> candidates -> second look -> boxes. Calls the scaler,
 * the cropper and the detector's kernels of a backend. docs/detector.md describes the networks.
 *
 * Three maps answer, of stride 4, 8 and 16, for faces of different sizes. A cell says how sure it is of a face around it,
 * and where that face's box lies. The few candidates that are left are cut out of the whole frame, which shows them in more
 * detail, and judged again.
 */
#include <math.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#include "detector.h"

/* So many enter non-maximum suppression, so that a hostile frame takes bounded time. */
enum { CANDIDATES = 512 };

static const int stride_of[LEVELS] = {4, 8, 16};

/* The smallest face that is looked for has so many pixels a side in the reduced picture. */
static const double SMALLEST = 16.0;
/* Faces smaller than the one asked for by more than this are left out. */
static const double LEAST = 0.8;
/* Of a cell's box, in strides, where the network says 0; and bounds of what it may say. */
static const float BOX_STRIDES = 4.0f, LOG_SIDE = 3.0f;
/* A box goes when it shares more than this with a surer one: of both together, or of the smaller. */
static const float NMS_IOU = 0.4f, NMS_INSIDE = 0.65f;
/* So many candidates get a second look, the surest ones; those below this score do not. */
enum { LOOKS = 16 };
static const float LEAST_CANDIDATE = 0.15f;
/* Candidates that have this score after it are looked at mirrored, too. */
static const float LEAST_MIRRORED = 0.3f;
/* Side of the square that is cut out, in units of the longer side of the box. */
static const float REFINED_SQUARE = 1.4f;

/* ---- Workspace --------------------------------------------------------------------------------------------------- */

/* Rows of the first unit's map that are made at a time. */
enum { STEM_ROWS = 4 };

/* height × width pixels with a border of one, which is zero. */
typedef struct map {
    float *pixel; /* (0, 0) */
    ptrdiff_t pitch;
    int height, width;
} map;

typedef struct candidate {
    float x0, y0, x1, y1, score;
} candidate;

/* Floats of a map with its border. */
#define MAP_FLOATS(side, channels) (((side) + 2) * ((side) + 2) * (channels))

/* The refiner's maps, all but the last with a border, which stays zero. */
typedef struct refiner_maps {
    alignas(MXN_ALIGNMENT) float image[MAP_FLOATS(MXN_REFINER_SIZE, 1)];
    alignas(MXN_ALIGNMENT) float stem[MAP_FLOATS(MXN_REFINER_SIZE / 2, 16)];
    alignas(MXN_ALIGNMENT) float quarter[MAP_FLOATS(MXN_REFINER_SIZE / 4, 32)];
    alignas(MXN_ALIGNMENT) float first[MAP_FLOATS(MXN_REFINER_MAP, 64)];
    alignas(MXN_ALIGNMENT) float second[MAP_FLOATS(MXN_REFINER_MAP, 64)];
    alignas(MXN_ALIGNMENT) float flat[MXN_REFINER_FLAT];
    alignas(MXN_ALIGNMENT) float row[MXN_REFINER_SIZE / 2 * 64];
    uint8_t pixels[MXN_REFINER_PIXELS];
} refiner_maps;

struct mxn_detector_workspace {
    refiner_maps refiner;
    void *memory; /* of all maps of the first look */
    size_t bytes;
    int width, height; /* for which the maps are laid out; 0: for none */
    map image, stem; /* strips, whose borders are the rows beside them */
    map first[LEVELS], second[LEVELS];
    float *scores[LEVELS];
    float *row;
    void *scratch; /* of the scaler and the cropper */
    size_t scratch_bytes;
    uint8_t *gray;
    candidate candidate[CANDIDATES];
};

mxn_detector_workspace *mxn_detector_workspace_new(void) {
    mxn_detector_workspace *workspace = aligned_alloc(MXN_ALIGNMENT, aligned(sizeof *workspace));
    return workspace ? memset(workspace, 0, sizeof *workspace) : NULL;
}

void mxn_detector_workspace_free(mxn_detector_workspace *workspace) {
    if (!workspace) return;
    free(workspace->memory);
    free(workspace->scratch);
    free(workspace);
}

static int half(int n) { return (n + 1) / 2; }

static map place_map(char *memory, size_t *offset, int height, int width, int channels) {
    map m = {.height = height, .width = width, .pitch = (ptrdiff_t)(width + 2) * channels};
    /* Pixel (0, 0) is aligned when the border before it is a whole number of lines. */
    const size_t before = aligned((size_t)(m.pitch + channels) * sizeof(float));
    if (memory) m.pixel = (float *)(void *)(memory + *offset + before);
    *offset += before + aligned((size_t)m.pitch * (size_t)(height + 1) * sizeof(float));
    return m;
}

static size_t lay_out(mxn_detector_workspace *w, int width, int height, char *memory) {
    size_t offset = 0;
    int h = half(height), wide = half(width);
    w->image = place_map(memory, &offset, 4 * STEM_ROWS - 1, width, 1);
    w->stem = place_map(memory, &offset, 2 * STEM_ROWS - 1, wide, MXN_DETECTOR_STEM);
    w->row = memory ? (float *)(void *)(memory + offset) : NULL;
    offset += aligned((size_t)wide * MXN_DETECTOR_CHANNELS_MAX * sizeof(float));
    for (int l = 0; l < LEVELS; l++) {
        h = half(h), wide = half(wide);
        w->first[l] = place_map(memory, &offset, h, wide, channels_of[l]);
        w->second[l] = place_map(memory, &offset, h, wide, channels_of[l]);
        w->scores[l] = memory ? (float *)(void *)(memory + offset) : NULL;
        offset += aligned((size_t)h * (size_t)wide * sizeof(float));
    }
    w->gray = memory ? (uint8_t *)memory + offset : NULL;
    offset += aligned((size_t)width * (size_t)height);
    return offset;
}

static mxn_status prepare(mxn_detector_workspace *w, int width, int height) {
    if (w->width == width && w->height == height) return MXN_OK;
    w->width = 0;
    const size_t bytes = lay_out(w, width, height, NULL);
    if (bytes > w->bytes) {
        free(w->memory);
        w->memory = aligned_alloc(MXN_ALIGNMENT, bytes);
        w->bytes = w->memory ? bytes : 0;
        if (!w->memory) return MXN_ERROR_MEMORY;
    }
    memset(w->memory, 0, bytes);
    lay_out(w, width, height, w->memory);
    w->width = width, w->height = height;
    return MXN_OK;
}

/* ---- Network ----------------------------------------------------------------------------------------------------- */

static void run_unit(const mxn_detector *d, int i, const map *src, const map *dst, float *row) {
    d->backend->detector->unit[units[i].kind](&d->unit[i], src->pixel, src->pitch, dst->pixel, dst->pitch, dst->height,
                                             dst->width, row);
}

static float *row_of(const map *m, int y) { return m->pixel + y * m->pitch - m->pitch / (m->width + 2); }

static void clear_row(const map *m, int y) { memset(row_of(m, y), 0, (size_t)m->pitch * sizeof(float)); }

/* The last row of a strip becomes the one before the next strip's first. */
static void carry_row(const map *m) { memcpy(row_of(m, -1), row_of(m, m->height), (size_t)m->pitch * sizeof(float)); }

/* The grey picture in w->gray -> the first unit's map. In strips of STEM_ROWS of its rows: the maps before it are the largest,
 * and whole ones would drive each other, and the frame, out of the cache. */
static void run_stem(const mxn_detector *d, mxn_detector_workspace *w) {
    const map *image = &w->image, *stem = &w->stem, *first = &w->first[0];
    const int stem_height = half(w->height);
    clear_row(image, -1);
    clear_row(stem, -1);
    for (int y = 0; y < first->height; y += STEM_ROWS) {
        const int rows = first->height - y < STEM_ROWS ? first->height - y : STEM_ROWS;
        for (int i = 0; i < 4 * rows; i++) {
            const uint8_t *gray = w->gray + (ptrdiff_t)(4 * y + i) * w->width;
            float *row = image->pixel + i * image->pitch;
            if (4 * y + i >= w->height) clear_row(image, i);
            else for (int x = 0; x < w->width; x++) row[x] = (float)(gray[x] - 128) * (1.0f / 64);
        }
        const int stem_rows = stem_height - 2 * y < 2 * rows ? stem_height - 2 * y : 2 * rows;
        d->backend->detector->stem(image->pixel, image->pitch, d->stem_weight, d->stem_bias, stem->pixel, stem->pitch, stem_rows,
                                   stem->width);
        if (stem_rows < 2 * rows) clear_row(stem, stem_rows);
        d->backend->detector->unit[units[0].kind](&d->unit[0], stem->pixel, stem->pitch, first->pixel + y * first->pitch,
                                                 first->pitch, rows, first->width, w->row);
        carry_row(image);
        carry_row(stem);
    }
}

/* The grey picture in w->gray -> w->scores. */
static void run(const mxn_detector *d, mxn_detector_workspace *w) {
    const mxn_detector_kernels *k = d->backend->detector;
    run_stem(d, w);
    for (int l = 0; l < LEVELS; l++) {
        if (l > 0) run_unit(d, 3 * l, &w->first[l - 1], &w->first[l], w->row);
        run_unit(d, 3 * l + 1, &w->first[l], &w->second[l], w->row);
        run_unit(d, 3 * l + 2, &w->second[l], &w->first[l], w->row);
    }
    const map *fine = &w->first[0], *middle = &w->first[1], *coarse = &w->first[2];
    k->add_enlarged(coarse->pixel, coarse->pitch, middle->pixel, middle->pitch, middle->height, middle->width);
    k->lateral(middle->pixel, middle->pitch, d->lateral_weight, d->lateral_bias, fine->pixel, fine->pitch, fine->height,
               fine->width, w->row);
    for (int l = 0; l < LEVELS; l++) {
        const map *head = &w->second[l];
        run_unit(d, HEADS + l, &w->first[l], head, w->row);
        k->scores[channels_of[l] == 64](head->pixel, head->pitch, d->out_weight[l], d->out_bias[l], w->scores[l], head->height,
                                        head->width);
    }
}

/* ---- Boxes ------------------------------------------------------------------------------------------------------- */

static void swap(candidate *a, candidate *b) {
    const candidate c = *a;
    *a = *b;
    *b = c;
}

/* Restores the heap, the least sure at its root, below i. */
static void sift_down(candidate *heap, int count, int i) {
    for (int child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && heap[child + 1].score < heap[child].score) child++;
        if (heap[i].score <= heap[child].score) return;
        swap(&heap[i], &heap[child]);
    }
}

/* Adds a candidate; when there is no room, the least sure one goes. */
static int keep(candidate *heap, int count, const candidate *c) {
    if (count == CANDIDATES) {
        if (c->score > heap[0].score) {
            heap[0] = *c;
            sift_down(heap, count, 0);
        }
        return count;
    }
    int i = count;
    heap[i] = *c;
    for (int parent; i > 0 && heap[parent = (i - 1) / 2].score > heap[i].score; i = parent) swap(&heap[i], &heap[parent]);
    return count + 1;
}

static float clamp_log(float x) { return x > LOG_SIDE ? LOG_SIDE : x > -LOG_SIDE ? x : -LOG_SIDE; }

/* All answers of a cell. */
static void ask(const mxn_detector *d, const mxn_detector_workspace *w, int level, int y, int x, float *answers) {
    const map *head = &w->second[level];
    const int channels = channels_of[level];
    d->backend->detector->answers(head->pixel + y * head->pitch + x * channels, channels, d->out_weight[level],
                                  d->out_bias[level], answers);
}

/* Cells above the threshold, the surest first; returns their number. */
static int decode(const mxn_detector *d, mxn_detector_workspace *w, float threshold) {
    const float least = threshold <= 0 ? -INFINITY : threshold >= 1 ? INFINITY : logf(threshold / (1 - threshold));
    int count = 0;
    for (int l = 0; l < LEVELS; l++) {
        const float *score = w->scores[l], stride = (float)stride_of[l];
        for (int y = 0; y < w->first[l].height; y++)
            for (int x = 0; x < w->first[l].width; x++, score++) {
                if (!(*score >= least)) continue;
                float cell[ANSWERS];
                ask(d, w, l, y, x, cell);
                const float cx = ((float)x + cell[1]) * stride + 0.5f, cy = ((float)y + cell[2]) * stride + 0.5f;
                const float half_width = BOX_STRIDES / 2 * stride * expf(clamp_log(cell[3]));
                const float half_height = BOX_STRIDES / 2 * stride * expf(clamp_log(cell[4]));
                const candidate c = {cx - half_width, cy - half_height, cx + half_width, cy + half_height,
                                     1 / (1 + expf(-*score))};
                count = keep(w->candidate, count, &c);
            }
    }
    for (int left = count - 1; left > 0; left--) {
        swap(&w->candidate[0], &w->candidate[left]);
        sift_down(w->candidate, left, 0);
    }
    return count;
}

static float area(const candidate *c) { return (c->x1 - c->x0) * (c->y1 - c->y0); }

static bool hides(const candidate *surer, const candidate *c) {
    const float width = fminf(surer->x1, c->x1) - fmaxf(surer->x0, c->x0);
    const float height = fminf(surer->y1, c->y1) - fmaxf(surer->y0, c->y0);
    if (width <= 0 || height <= 0) return false;
    const float shared = width * height, a = area(surer), b = area(c);
    return shared > NMS_IOU * (a + b - shared) || shared > NMS_INSIDE * fminf(a, b);
}

/* Non-maximum suppression in place; returns how many are left. */
static int suppress(candidate *c, int count) {
    int kept = 0;
    for (int i = 0; i < count; i++) {
        bool hidden = false;
        for (int k = 0; k < kept && !hidden; k++) hidden = hides(&c[k], &c[i]);
        if (!hidden) c[kept++] = c[i];
    }
    return kept;
}

/* ---- The whole --------------------------------------------------------------------------------------------------- */

mxn_status mxn_detector_size(const mxn_image *image, double min_face, int *width, int *height) {
    if (image->width < 1 || image->width > MXN_IMAGE_SIDE_MAX || image->height < 1 || image->height > MXN_IMAGE_SIDE_MAX ||
        !(min_face > 0 && min_face <= 1))
        return MXN_ERROR_ARGUMENT;
    const int shorter = image->width < image->height ? image->width : image->height;
    const double wanted = floor(SMALLEST / min_face + 0.5), scale = wanted < shorter ? wanted / shorter : 1.0;
    const int w = (int)floor(image->width * scale + 0.5), h = (int)floor(image->height * scale + 0.5);
    *width = w < 1 ? 1 : w;
    *height = h < 1 ? 1 : h;
    return MXN_OK;
}

ptrdiff_t mxn_detector_cells(int width, int height) {
    ptrdiff_t cells = 0;
    for (int l = 0; l < LEVELS; l++)
        cells += (ptrdiff_t)((width + stride_of[l] - 1) / stride_of[l]) * ((height + stride_of[l] - 1) / stride_of[l]);
    return cells;
}

mxn_status mxn_detector_answers(const mxn_detector *detector, mxn_detector_workspace *workspace, const uint8_t *gray,
                                int width, int height, float *answers) {
    if (width < 1 || width > MXN_IMAGE_SIDE_MAX || height < 1 || height > MXN_IMAGE_SIDE_MAX) return MXN_ERROR_ARGUMENT;
    const mxn_status status = prepare(workspace, width, height);
    if (status != MXN_OK) return status;
    memcpy(workspace->gray, gray, (size_t)width * (size_t)height);
    run(detector, workspace);
    for (int l = 0; l < LEVELS; l++) {
        const float *score = workspace->scores[l];
        for (int y = 0; y < workspace->first[l].height; y++)
            for (int x = 0; x < workspace->first[l].width; x++, answers += ANSWERS) {
                ask(detector, workspace, l, y, x, answers);
                answers[0] = *score++; /* rounded as decode() sees it */
            }
    }
    return MXN_OK;
}

/* Makes room for `bytes` of scratch memory. */
static bool reserve(mxn_detector_workspace *w, size_t bytes) {
    if (bytes <= w->scratch_bytes) return true;
    free(w->scratch);
    w->scratch = aligned_alloc(MXN_ALIGNMENT, bytes);
    w->scratch_bytes = w->scratch ? bytes : 0;
    return w->scratch != NULL;
}

static mxn_status scale(const mxn_backend *backend, mxn_detector_workspace *w, const mxn_image *image) {
    if (!reserve(w, mxn_scale_scratch_bytes(image, w->width, w->height))) return MXN_ERROR_MEMORY;
    return mxn_scale_gray(backend, image, w->width, w->height, w->gray, w->scratch, w->scratch_bytes);
}

static float *inside(float *map, int side, int channels) { return map + (side + 3) * channels; }

void mxn_refiner_answers(const mxn_detector *detector, mxn_detector_workspace *workspace, const uint8_t *pixels,
                         float *answers) {
    enum { SIZE = MXN_REFINER_SIZE, HALF = SIZE / 2, QUARTER = SIZE / 4, MAP = MXN_REFINER_MAP };
    const mxn_detector_kernels *k = detector->backend->detector;
    const mxn_detector_unit *unit = detector->refiner_unit;
    refiner_maps *m = &workspace->refiner;
    float *image = inside(m->image, SIZE, 1), *stem = inside(m->stem, HALF, 16), *quarter = inside(m->quarter, QUARTER, 32);
    float *first = inside(m->first, MAP, 64), *second = inside(m->second, MAP, 64);
    for (int y = 0; y < SIZE; y++)
        for (int x = 0; x < SIZE; x++) image[y * (SIZE + 2) + x] = (float)(pixels[y * SIZE + x] - 128) * (1.0f / 64);
    k->stem(image, SIZE + 2, detector->refiner_stem_weight, detector->refiner_stem_bias, stem, (HALF + 2) * 16, HALF, HALF);
    k->unit[MXN_UNIT_16_32_2](&unit[0], stem, (HALF + 2) * 16, quarter, (QUARTER + 2) * 32, QUARTER, QUARTER, m->row);
    k->unit[MXN_UNIT_32_64_2](&unit[1], quarter, (QUARTER + 2) * 32, first, (MAP + 2) * 64, MAP, MAP, m->row);
    k->unit[MXN_UNIT_64_64_1](&unit[2], first, (MAP + 2) * 64, second, (MAP + 2) * 64, MAP, MAP, m->row);
    k->unit[MXN_UNIT_64_64_1](&unit[3], second, (MAP + 2) * 64, m->flat, MAP * 64, MAP, MAP, m->row);
    k->answers(m->flat, MXN_REFINER_FLAT, detector->refiner_out_weight, detector->refiner_out_bias, answers);
}

static void sort(candidate *c, int count) {
    for (int i = 1; i < count; i++)
        for (int k = i; k > 0 && c[k].score > c[k - 1].score; k--) swap(&c[k], &c[k - 1]);
}

/* What the second look is shown of a candidate, in pixels of the image: *side becomes that of a square about its centre, and 0
 * where there is no such square, from weights that say nonsense. */
static mxn_status cut(const mxn_detector *d, mxn_detector_workspace *w, const mxn_image *image, const candidate *c, float *side) {
    const mxn_image reduced = {w->gray, w->width, w->height, w->width, 1, 0, MXN_COLOR_GRAY};
    const float to_x = (float)w->width / (float)image->width, to_y = (float)w->height / (float)image->height;
    *side = REFINED_SQUARE * fmaxf(c->x1 - c->x0, c->y1 - c->y0);
    mxn_box square = {(c->x0 + c->x1 - *side) / 2, (c->y0 + c->y1 - *side) / 2, *side, *side};
    /* The reduced picture is enough for what is reduced again, and costs less to read. */
    const mxn_image *source = image;
    if (*side * to_x >= MXN_REFINER_SIZE && *side * to_y >= MXN_REFINER_SIZE) {
        square = (mxn_box){square.x * to_x, square.y * to_y, square.width * to_x, square.height * to_y};
        source = &reduced;
    }
    const size_t bytes = mxn_crop_scratch_bytes(square, MXN_REFINER_SIZE);
    if (bytes == 0) {
        *side = 0;
        return MXN_OK;
    }
    if (!reserve(w, bytes)) return MXN_ERROR_MEMORY;
    const mxn_status status = mxn_crop_gray(d->backend, source, square, MXN_REFINER_SIZE, w->refiner.pixels, w->scratch,
                                            w->scratch_bytes);
    if (status == MXN_OK) mxn_standardise(w->refiner.pixels, MXN_REFINER_PIXELS);
    return status;
}

static void mirror(uint8_t *pixels) {
    for (int y = 0; y < MXN_REFINER_SIZE; y++, pixels += MXN_REFINER_SIZE)
        for (int left = 0, right = MXN_REFINER_SIZE - 1; left < right; left++, right--) {
            const uint8_t pixel = pixels[left];
            pixels[left] = pixels[right], pixels[right] = pixel;
        }
}

/* Its logit and its box for what was cut out about a candidate, or for the mirror image of that. */
static float look(const mxn_detector *d, mxn_detector_workspace *w, float side, bool mirrored, candidate *c) {
    float said[ANSWERS];
    mxn_refiner_answers(d, w, w->refiner.pixels, said);
    const float x = (c->x0 + c->x1) / 2 + (mirrored ? -said[1] : said[1]) * side, y = (c->y0 + c->y1) / 2 + said[2] * side;
    const float half_width = side / 2 * expf(clamp_log(said[3])), half_height = side / 2 * expf(clamp_log(said[4]));
    c->x0 = x - half_width, c->y0 = y - half_height, c->x1 = x + half_width, c->y1 = y + half_height;
    return said[0];
}

static void average(candidate *c, const candidate *other) {
    c->x0 = (c->x0 + other->x0) / 2, c->y0 = (c->y0 + other->y0) / 2;
    c->x1 = (c->x1 + other->x1) / 2, c->y1 = (c->y1 + other->y1) / 2;
}

static float probability(float logit) { return 1 / (1 + expf(-logit)); }

/* Looks at all candidates, and mirrored at those that are still likely: new scores and boxes, the surest first. */
static mxn_status refine(const mxn_detector *d, mxn_detector_workspace *w, const mxn_image *image, int count) {
    for (int i = 0; i < count; i++) {
        candidate *c = &w->candidate[i], mirrored = *c;
        float side;
        const mxn_status status = cut(d, w, image, c, &side);
        if (status != MXN_OK) return status;
        const float score = fminf(c->score, 0.999999f); /* of 1 the logit is infinite, and could not be overruled */
        const float first = logf(score / (1 - score)), second = side > 0 ? look(d, w, side, false, c) : -INFINITY;
        /* Both networks count alike. */
        c->score = probability((first + second) / 2);
        if (c->score >= LEAST_MIRRORED) {
            mirror(w->refiner.pixels);
            const float third = look(d, w, side, true, &mirrored);
            c->score = probability(first / 2 + (second + third) / 4);
            average(c, &mirrored);
        }
        if (!(c->score >= 0)) c->score = 0; /* NaN */
    }
    sort(w->candidate, count);
    return MXN_OK;
}

/* Looks once more at a face, now that it is known better where it is: its box becomes the mean of both. */
static mxn_status settle(const mxn_detector *d, mxn_detector_workspace *w, const mxn_image *image, candidate *face) {
    candidate again = *face;
    float side;
    const mxn_status status = cut(d, w, image, face, &side);
    if (status != MXN_OK || side == 0) return status;
    look(d, w, side, false, &again);
    average(face, &again);
    return MXN_OK;
}

mxn_status mxn_detect(const mxn_detector *detector, mxn_detector_workspace *workspace, const mxn_image *image,
                      const mxn_detect_options *options, mxn_detection *found, int *count) {
    int width, height;
    mxn_status status = mxn_detector_size(image, options->min_face, &width, &height);
    if (status != MXN_OK) return status;
    if (!(options->score_threshold >= 0 && options->score_threshold <= 1) || options->max_faces < 1) return MXN_ERROR_ARGUMENT;
    status = prepare(workspace, width, height);
    if (status == MXN_OK) status = scale(detector->backend, workspace, image);
    if (status != MXN_OK) return status;
    run(detector, workspace);
    int left = suppress(workspace->candidate, decode(detector, workspace, LEAST_CANDIDATE));
    left = left < LOOKS ? left : LOOKS;
    const float to_x = (float)image->width / (float)width, to_y = (float)image->height / (float)height;
    for (int i = 0; i < left; i++) {
        candidate *c = &workspace->candidate[i];
        *c = (candidate){c->x0 * to_x, c->y0 * to_y, c->x1 * to_x, c->y1 * to_y, c->score};
    }
    status = refine(detector, workspace, image, left);
    if (status != MXN_OK) return status;
    left = suppress(workspace->candidate, left);

    const int shorter = image->width < image->height ? image->width : image->height;
    const float least = (float)(LEAST * options->min_face * shorter);
    int n = 0;
    for (int i = 0; i < left && n < options->max_faces; i++) {
        candidate *c = &workspace->candidate[i];
        if (c->score < options->score_threshold) break;
        status = settle(detector, workspace, image, c);
        if (status != MXN_OK) return status;
        const mxn_detection d = {c->x0, c->y0, c->x1 - c->x0, c->y1 - c->y0, c->score};
        const bool in_view = d.x < image->width && d.y < image->height && d.x + d.width > 0 && d.y + d.height > 0;
        if (in_view && d.width * d.height >= least * least) found[n++] = d;
    }
    *count = n;
    return MXN_OK;
}

mxn_box mxn_face_square(const mxn_detection *face, double scale) {
    enum { STEPS = 32 }; /* to a side, or up to twice as many */
    const double side = scale * sqrt((double)face->width * face->height);
    int exponent;
    frexp(side / STEPS, &exponent);
    const double step = ldexp(1, exponent - 1), on_grid = step * rint(side / step);
    const double x = face->x + (face->width - side) / 2, y = face->y + (face->height - side) / 2;
    return (mxn_box){step * rint(x / step), step * rint(y / step), on_grid, on_grid};
}
