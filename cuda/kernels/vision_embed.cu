// Class token and learned positions: row p of each image's L rows is content[p] + positions[p], the content being the class
// token (p = 0, if there is one) or a patch; and its gradient, whose sums run over images in order.
//
// Launch: 256 threads a block, each with 16 bytes of one row of y, or of one position in all images; there is at least one.
// Bytes per element of y: forward reads a patch (positions stay in the L2 cache), writes y; backward reads dy, writes
// dpatches.
// budget: registers 40, blocks 6
#include "device.cuh"

template <int N, class T>
__device__ void forward(const T* patches, i64 ld_patches, const T* cls, const T* positions, i64 ld_positions, int length,
                        T* y, i64 ldy, u32 row, i64 col) {
    const u32 image = row / length, position = row - image * length, skip = cls != nullptr;
    const T* content = cls;
    if (position >= skip) content = patches + (i64(image) * (length - skip) + position - skip) * ld_patches;
    Floats<N> v = load<N>(content + col);
    const Floats<N> p = load<N>(positions + position * ld_positions + col);
#pragma unroll
    for (int i = 0; i < N; ++i) v.v[i] += p.v[i];
    store(y + row * ldy + col, v);
}

template <int N, class G> __device__ __forceinline__ void add(G* to, const Floats<N>& v) {
    Floats<N> sum = load<N>(to);
#pragma unroll
    for (int i = 0; i < N; ++i) sum.v[i] += v.v[i];
    store(to, sum);
}

template <int N, class T, class G>
__device__ void backward(const T* dy, i64 ld_dy, int images, int length, int skip, T* dpatches, i64 ld_dpatches, G* dclass,
                         G* dpositions, i64 ld_dpositions, u32 position, i64 col) {
    Floats<N> sum = {};
    const bool is_patch = dpatches && position >= skip;
    i64 image = 0;
#pragma unroll 1
    do {
        const Floats<N> v = load<N>(dy + (image * length + position) * ld_dy + col);
#pragma unroll
        for (int i = 0; i < N; ++i) sum.v[i] += v.v[i];
        if (is_patch) store(dpatches + (image * (length - skip) + position - skip) * ld_dpatches + col, v);
    } while (++image < images);
    if (dpositions) add(dpositions + position * ld_dpositions + col, sum);
    if (dclass && position == 0) add(dclass + col, sum);
}

#define FORWARD(T)                                                                                                        \
    KERNEL(256, 6)                                                                                                        \
    vision_embed_##T(const T* patches, i64 ld_patches, const T* cls, const T* positions, i64 ld_positions, int length,    \
                     T* y, i64 ldy, u32 rows, int cols) {                                                                 \
        constexpr int n = Pack<T>::n;                                                                                     \
        const Place at = place<n>(rows, cols);                                                                            \
        if (at.count == n && aligned16(patches, ld_patches) && aligned16(cls, 0) && aligned16(positions, ld_positions) && \
            aligned16(y, ldy))                                                                                            \
            forward<n>(patches, ld_patches, cls, positions, ld_positions, length, y, ldy, at.row, at.col);                \
        else                                                                                                              \
            _Pragma("unroll 1") for (int i = 0; i < at.count; ++i)                                                        \
                forward<1>(patches, ld_patches, cls, positions, ld_positions, length, y, ldy, at.row, at.col + i);        \
    }
FORWARD(f32)
FORWARD(bf16)

#define BACKWARD(T, G)                                                                                                    \
    KERNEL(256, 6)                                                                                                        \
    vision_embed_backward_##T##_##G(const T* dy, i64 ld_dy, int images, int length, int skip, T* dpatches,                \
                                    i64 ld_dpatches, G* dclass, G* dpositions, i64 ld_dpositions, int cols) {             \
        constexpr int n = Pack<T>::n;                                                                                     \
        const Place at = place<n>(length, cols);                                                                          \
        if (at.count == n && aligned16(dy, ld_dy) && aligned16(dpatches, ld_dpatches) && aligned16(dclass, 0) &&          \
            aligned16(dpositions, ld_dpositions))                                                                         \
            backward<n>(dy, ld_dy, images, length, skip, dpatches, ld_dpatches, dclass, dpositions, ld_dpositions,        \
                        at.row, at.col);                                                                                  \
        else                                                                                                              \
            _Pragma("unroll 1") for (int i = 0; i < at.count; ++i)                                                        \
                backward<1>(dy, ld_dy, images, length, skip, dpatches, ld_dpatches, dclass, dpositions, ld_dpositions,    \
                            at.row, at.col + i);                                                                          \
    }
BACKWARD(f32, f32)
BACKWARD(bf16, f32)
BACKWARD(bf16, bf16)
