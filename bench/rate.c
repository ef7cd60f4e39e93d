/* What the machine's memory can do: a loop that only loads and stores. Built and called by rate.py. */
#include <stddef.h>

enum { lanes = 64 };

/* Sums so many floats and writes the sums over so many others. */
void load_store(const float *in, size_t loads, float *out, size_t stores) {
    float sums[lanes] = {0};
    size_t i = 0;
    for (; i + lanes <= loads; i += lanes)
        for (int j = 0; j < lanes; ++j) sums[j] += in[i + j];
    for (; i < loads; ++i) sums[0] += in[i];
    for (i = 0; i + lanes <= stores; i += lanes)
        for (int j = 0; j < lanes; ++j) out[i + j] = sums[j];
    for (; i < stores; ++i) out[i] = sums[0];
}
