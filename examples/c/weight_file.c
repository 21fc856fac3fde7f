/* Reads weight files: safetensors, which is the length of a header (8 bytes, little-endian), the header (JSON: metadata, and
 * for each tensor dtype, shape and place), and the tensors' bytes. Little-endian machines only. Calls the C library only.
 */
#include "weight_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_BYTES_MAX = 32 << 20, HEADER_BYTES_MAX = 1 << 20, DIMENSIONS_MAX = 4 };

typedef struct tensor {
    bool found, is_int8;
    int dimensions;
    long shape[DIMENSIONS_MAX];
    long begin, end; /* bytes after the header */
} tensor;

enum { CONV1, CONV1_BIAS, CONV2, CONV2_BIAS, FC1, FC1_BIAS, FC2, FC2_BIAS, TENSORS };
enum { CONV1_SCALE = TENSORS, CONV2_SCALE, FC1_SCALE, ALL_TENSORS };
static const char *const tensor_names[ALL_TENSORS] = {"conv1.weight", "conv1.bias",  "conv2.weight", "conv2.bias",
                                                      "fc1.weight",   "fc1.bias",    "fc2.weight",   "fc2.bias",
                                                      "conv1.scale",  "conv2.scale", "fc1.scale"};

typedef struct header {
    char *format, *format_version, *architecture, *labels, *preprocessing, *precision;
    tensor tensor[ALL_TENSORS];
} header;

/* ---- JSON: strings are decoded in place; `at` stands on the next byte; a zero byte ends the text ---- */

static void skip_space(char **at) {
    while (**at == ' ' || **at == '\t' || **at == '\n' || **at == '\r') ++*at;
}

static bool accept(char **at, char c) {
    skip_space(at);
    if (**at != c) return false;
    ++*at;
    return true;
}

/* Four hexadecimal digits. */
static bool read_unit(char **at, unsigned *unit) {
    *unit = 0;
    for (int i = 0; i < 4; i++, ++*at) {
        const char c = **at, lower = (char)(c | 0x20);
        const int digit = c >= '0' && c <= '9' ? c - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
        if (digit < 0) return false;
        *unit = *unit * 16 + (unsigned)digit;
    }
    return true;
}

/* Never longer than its escape sequence. */
static char *write_utf8(char *out, unsigned code) {
    if (code < 0x80) {
        *out++ = (char)code;
        return out;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned lead[] = {0, 0xC0, 0xE0, 0xF0};
    *out++ = (char)(lead[more] | code >> (6 * more));
    for (int i = more - 1; i >= 0; i--) *out++ = (char)(0x80 | (code >> (6 * i) & 0x3F));
    return out;
}

/* The string, decoded and ended by a zero; NULL when there is none. */
static char *read_string(char **at) {
    if (!accept(at, '"')) return NULL;
    char *const start = *at, *out = start;
    while (**at != '"') {
        if ((unsigned char)**at < 0x20) return NULL; /* the end of the text among them */
        if (**at != '\\') {
            *out++ = *(*at)++;
            continue;
        }
        const char escaped = *++*at;
        static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
        const char *name = escaped ? strchr(names, escaped) : NULL;
        if (name) {
            *out++ = values[name - names];
            ++*at;
            continue;
        }
        unsigned code, low;
        if (escaped != 'u') return NULL;
        ++*at;
        if (!read_unit(at, &code) || code == 0) return NULL;
        if (code >= 0xD800 && code < 0xE000) { /* the first half of a surrogate pair */
            if (code >= 0xDC00 || (*at)[0] != '\\' || (*at)[1] != 'u') return NULL;
            *at += 2;
            if (!read_unit(at, &low) || low < 0xDC00 || low >= 0xE000) return NULL;
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        }
        out = write_utf8(out, code);
    }
    ++*at;
    *out = 0;
    return start;
}

/* Up to `most` whole numbers; their count, or -1. */
static int read_numbers(char **at, long *numbers, int most) {
    int count = 0;
    if (!accept(at, '[')) return -1;
    if (accept(at, ']')) return 0;
    do {
        skip_space(at);
        if (count == most || **at < '0' || **at > '9') return -1;
        long value = 0;
        for (; **at >= '0' && **at <= '9'; ++*at)
            if ((value = value * 10 + (**at - '0')) > FILE_BYTES_MAX) return -1;
        numbers[count++] = value;
    } while (accept(at, ','));
    return accept(at, ']') ? count : -1;
}

static bool read_metadata(char **at, header *h) {
    const struct {
        const char *name;
        char **value;
    } known[] = {{"format", &h->format},         {"format_version", &h->format_version}, {"architecture", &h->architecture},
                 {"labels", &h->labels},         {"preprocessing", &h->preprocessing},   {"precision", &h->precision}};
    if (!accept(at, '{')) return false;
    if (accept(at, '}')) return true;
    do {
        const char *key = read_string(at);
        if (!key || !accept(at, ':')) return false;
        char *value = read_string(at);
        if (!value) return false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            if (strcmp(key, known[i].name) == 0) *known[i].value = value;
    } while (accept(at, ','));
    return accept(at, '}');
}

static bool read_tensor(char **at, tensor *t) {
    const char *dtype = NULL;
    long offsets[2];
    bool placed = false;
    t->dimensions = -1;
    if (!accept(at, '{')) return false;
    do {
        const char *key = read_string(at);
        if (!key || !accept(at, ':')) return false;
        if (strcmp(key, "dtype") == 0) {
            if (!(dtype = read_string(at))) return false;
        } else if (strcmp(key, "shape") == 0) {
            t->dimensions = read_numbers(at, t->shape, DIMENSIONS_MAX);
        } else if (strcmp(key, "data_offsets") == 0) {
            placed = read_numbers(at, offsets, 2) == 2;
        } else {
            return false;
        }
    } while (accept(at, ','));
    if (!accept(at, '}') || !dtype || !placed || t->dimensions < 0) return false;
    t->begin = offsets[0];
    t->end = offsets[1];
    t->is_int8 = strcmp(dtype, "I8") == 0;
    t->found = true;
    return t->is_int8 || strcmp(dtype, "F32") == 0;
}

static bool read_header(char *text, header *h) {
    char **at = &text;
    if (!accept(at, '{')) return false;
    do {
        const char *key = read_string(at);
        if (!key || !accept(at, ':')) return false;
        if (strcmp(key, "__metadata__") == 0) {
            if (!read_metadata(at, h)) return false;
            continue;
        }
        int i = 0;
        while (i < ALL_TENSORS && strcmp(key, tensor_names[i]) != 0) i++;
        if (i == ALL_TENSORS || h->tensor[i].found || !read_tensor(at, &h->tensor[i])) return false;
    } while (accept(at, ','));
    if (!accept(at, '}')) return false;
    skip_space(at);
    return **at == 0;
}

/* ---- From the header to weights ---- */

static bool has_shape(const tensor *t, bool may_be_int8, int dimensions, const long *shape, long bytes) {
    long count = 1;
    if (!t->found || (t->is_int8 && !may_be_int8) || t->dimensions != dimensions) return false;
    for (int i = 0; i < dimensions; i++) {
        if (t->shape[i] != shape[i]) return false;
        count *= shape[i];
    }
    return t->begin <= t->end && t->end <= bytes && t->end - t->begin == count * (t->is_int8 ? 1 : 4);
}

/* The labels, as many as classes, in one allocation that holds their text too. */
static const char *const *read_labels(const char *text, long classes) {
    const size_t bytes = strlen(text) + 1;
    const char **labels = malloc((size_t)classes * sizeof *labels + bytes);
    if (!labels) return NULL;
    char *at = memcpy(labels + classes, text, bytes);
    long count = 0;
    bool good = accept(&at, '[');
    do {
        const char *label = good ? read_string(&at) : NULL;
        good = label && *label && count < classes;
        if (good) labels[count++] = label;
    } while (good && accept(&at, ','));
    good = good && accept(&at, ']') && count == classes;
    skip_space(&at);
    if (good && *at == 0) return labels;
    free(labels);
    return NULL;
}

static const char *fill(mxn_student *student, header *h, const char *data, long bytes) {
    static const char *const architectures[] = {"microexpnet-v", "microexpnet-p1", "microexpnet-p2", "microexpnet-p12"};
    static const char *const preprocessings[] = {"face-square", "face-square-standardised", "microexpnet-paper"};
    int topology = 0, preprocessing = 0;
    if (!h->format || strcmp(h->format, "mxn-edge") != 0) return "not a weight file of mxn-edge";
    if (!h->format_version || strcmp(h->format_version, "1") != 0) return "an unknown version of the format";
    if (!h->architecture || !h->labels || !h->preprocessing) return "metadata are missing";
    while (topology < 4 && strcmp(h->architecture, architectures[topology]) != 0) topology++;
    while (preprocessing < 3 && strcmp(h->preprocessing, preprocessings[preprocessing]) != 0) preprocessing++;
    if (topology == 4) return "an unknown architecture";
    if (preprocessing == 3) return "an unknown preprocessing";
    const bool quantised = h->precision && strcmp(h->precision, "int8") == 0;

    tensor *t = h->tensor;
    const long hidden = t[FC1_BIAS].dimensions == 1 ? t[FC1_BIAS].shape[0] : 0;
    const long classes = t[FC2_BIAS].dimensions == 1 ? t[FC2_BIAS].shape[0] : 0;
    if (hidden < 1 || hidden > MXN_HIDDEN_MAX || classes < 1 || classes > MXN_CLASSES_MAX) return "sizes out of range";
    const long flat = mxn_flat_width((mxn_topology)topology);
    const struct {
        int dimensions;
        long shape[DIMENSIONS_MAX];
    } shapes[TENSORS] = {{4, {8, 8, 1, 16}}, {1, {16}},     {4, {4, 4, 16, 32}},   {1, {32}},
                         {2, {flat, hidden}}, {1, {hidden}}, {2, {hidden, classes}}, {1, {classes}}};
    size_t total = 0;
    for (int i = 0; i < TENSORS; i++) {
        const bool may_be_int8 = quantised && (i == CONV1 || i == CONV2 || i == FC1);
        if (!has_shape(&t[i], may_be_int8, shapes[i].dimensions, shapes[i].shape, bytes)) return "a tensor is missing or wrong";
        const tensor *scale = &t[CONV1_SCALE + i / 2];
        if (t[i].is_int8 && !has_shape(scale, false, 1, &shapes[i].shape[shapes[i].dimensions - 1], bytes))
            return "a scale is missing or wrong";
        total += (size_t)(t[i].end - t[i].begin) / (t[i].is_int8 ? 1 : 4);
    }

    float *values = malloc(total * sizeof *values), *next = values;
    if (!values) return "out of memory";
    const float *part[TENSORS];
    for (int i = 0; i < TENSORS; i++) {
        const char *from = data + t[i].begin;
        const long count = (t[i].end - t[i].begin) / (t[i].is_int8 ? 1 : 4);
        const long outputs = shapes[i].shape[shapes[i].dimensions - 1];
        part[i] = next;
        if (!t[i].is_int8) memcpy(next, from, (size_t)count * 4);
        for (long k = 0; t[i].is_int8 && k < count; k++) {
            float scale;
            memcpy(&scale, data + t[CONV1_SCALE + i / 2].begin + k % outputs * 4, 4);
            next[k] = (float)(int8_t)from[k] * scale;
        }
        next += count;
    }
    bool finite = true;
    for (size_t k = 0; k < total; k++) finite = finite && isfinite(values[k]);
    const char *const *labels = finite ? read_labels(h->labels, classes) : NULL;
    if (!labels) {
        free(values);
        return finite ? "wrong labels" : "a weight is not finite";
    }
    *student = (mxn_student){
        .config = {(mxn_topology)topology, (int)hidden, (int)classes},
        .weights = {part[CONV1], part[CONV1_BIAS], part[CONV2], part[CONV2_BIAS], part[FC1], part[FC1_BIAS], part[FC2],
                    part[FC2_BIAS]},
        .quantised = quantised,
        .preprocessing = preprocessings[preprocessing],
        .labels = labels,
    };
    return NULL;
}

const char *weight_file_read(const char *path, mxn_student *student) {
    FILE *file = fopen(path, "rb");
    if (!file) return "cannot be opened";
    char *content = malloc(FILE_BYTES_MAX + 1); /* of which a system gives only what is touched */
    const char *problem = "not readable, or too large";
    size_t size = 0, length = 0;
    if (content && (size = fread(content, 1, FILE_BYTES_MAX + 1, file)) <= FILE_BYTES_MAX && !ferror(file)) {
        problem = "not a safetensors file";
        for (int i = 7; i >= 0 && size >= 8 && length <= HEADER_BYTES_MAX; i--) length = length << 8 | (unsigned char)content[i];
        if (size >= 8 && length <= HEADER_BYTES_MAX && length <= size - 8) {
            header h = {0};
            char *text = malloc(length + 1);
            if (!text) {
                problem = "out of memory";
            } else {
                memcpy(text, content + 8, length);
                text[length] = 0;
                if (read_header(text, &h)) problem = fill(student, &h, content + 8 + length, (long)(size - 8 - length));
            }
            free(text);
        }
    }
    free(content);
    fclose(file);
    return problem;
}

void weight_file_free(mxn_student *student) {
    free((void *)student->weights.conv1_weight); /* the first of the one allocation of all */
    free((void *)student->labels);
    *student = (mxn_student){0};
}
