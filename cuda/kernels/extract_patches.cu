// Cuts channel-major images of side `size` into squares of side `patch`: row y is a square, in it channel, line, column.
//
// Launch: 256 threads a block, one element each.
// Bytes per element: reads the pixel, writes y.
// budget: registers 24, blocks 8
#include "device.cuh"

template <class T>
__device__ void extract(const T* pixels, i64 ld, int size, int patch, T* y, i64 ldy, u32 rows) {
    const Place at = place<1>(rows, 3 * patch * patch);
    if (at.count == 0) return;
    const u32 grid = size / patch, image = at.row / (grid * grid), cell = at.row - image * grid * grid;
    const u32 line = u32(at.col) / patch, channel = line / patch;
    const u32 row = cell / grid * patch + line - channel * patch, col = cell % grid * patch + u32(at.col) - line * patch;
    y[at.row * ldy + at.col] = pixels[image * ld + (i64(channel) * size + row) * size + col];
}

#define INSTANCE(T)                                                                                                 \
    KERNEL(256, 8) extract_patches_##T(const T* pixels, i64 ld, int size, int patch, T* y, i64 ldy, u32 rows) {     \
        extract(pixels, ld, size, patch, y, ldy, rows);                                                             \
    }
INSTANCE(f32)
INSTANCE(bf16)
