// copy: y = x, converted; add: y += x; scale: y *= factor; fill: y = value.
//
// Launch: 256 threads a block, each with 16 bytes of the narrower type of one row.
// Bytes per element: copy reads x and writes y, add reads both and writes y, scale reads and writes y, fill writes y.
// budget: registers 32, blocks 8
#include "device.cuh"

template <class X, class Y> __device__ void copy(const X* x, i64 ldx, Y* y, i64 ldy, u32 rows, i64 cols) {
    constexpr int nx = Pack<X>::n, ny = Pack<Y>::n, n = nx > ny ? nx : ny;
    const Place at = place<n>(rows, cols);
    if (at.count == 0) return;
    x += at.row * ldx + at.col, y += at.row * ldy + at.col;
    float v[n];
#pragma unroll
    for (int i = 0; i < n; i += nx) {
        const Pack<X> pack = load_pack(x, i, at.count, aligned16(x, 0));
#pragma unroll
        for (int j = 0; j < nx; ++j) v[i + j] = pack.v[j];
    }
#pragma unroll
    for (int i = 0; i < n; i += ny) {
        Pack<Y> pack;
#pragma unroll
        for (int j = 0; j < ny; ++j) pack.v[j] = v[i + j];
        store_pack(y, i, at.count, aligned16(y, 0), pack);
    }
}

template <class T> __device__ void add(const T* x, i64 ldx, T* y, i64 ldy, u32 rows, i64 cols) {
    const Place at = place<Pack<T>::n>(rows, cols);
    if (at.count == 0) return;
    x += at.row * ldx + at.col, y += at.row * ldy + at.col;
    const bool wide = aligned16(y, 0);
    const Pack<T> a = load_pack(x, 0, at.count, aligned16(x, 0));
    Pack<T> b = load_pack(y, 0, at.count, wide);
#pragma unroll
    for (int i = 0; i < Pack<T>::n; ++i) b.v[i] += a.v[i];
    store_pack(y, 0, at.count, wide, b);
}

template <class T> __device__ void scale(T* y, i64 ldy, float factor, u32 rows, i64 cols) {
    const Place at = place<Pack<T>::n>(rows, cols);
    if (at.count == 0) return;
    y += at.row * ldy + at.col;
    const bool wide = aligned16(y, 0);
    Pack<T> pack = load_pack(y, 0, at.count, wide);
#pragma unroll
    for (int i = 0; i < Pack<T>::n; ++i) pack.v[i] *= factor;
    store_pack(y, 0, at.count, wide, pack);
}

template <class T> __device__ void fill(T* y, i64 ldy, float value, u32 rows, i64 cols) {
    const Place at = place<Pack<T>::n>(rows, cols);
    if (at.count == 0) return;
    y += at.row * ldy + at.col;
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < Pack<T>::n; ++i) pack.v[i] = value;
    store_pack(y, 0, at.count, aligned16(y, 0), pack);
}

#define COPY(X, Y)                                                                             \
    KERNEL(256, 8) copy_##X##_##Y(const X* x, i64 ldx, Y* y, i64 ldy, u32 rows, i64 cols) {    \
        copy(x, ldx, y, ldy, rows, cols);                                                      \
    }
#define INSTANCE(T)                                                                                                       \
    COPY(T, f32)                                                                                                          \
    COPY(T, bf16)                                                                                                         \
    KERNEL(256, 8) add_##T(const T* x, i64 ldx, T* y, i64 ldy, u32 rows, i64 cols) { add(x, ldx, y, ldy, rows, cols); }   \
    KERNEL(256, 8) scale_##T(T* y, i64 ldy, float factor, u32 rows, i64 cols) { scale(y, ldy, factor, rows, cols); }      \
    KERNEL(256, 8) fill_##T(T* y, i64 ldy, float value, u32 rows, i64 cols) { fill(y, ldy, value, rows, cols); }
INSTANCE(f32)
INSTANCE(bf16)
