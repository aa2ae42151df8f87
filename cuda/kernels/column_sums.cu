// Column sums in a fixed order: y[chunk] (+)= sum of `chunk` rows of x. Two launches sum a tall matrix: first into one
// row per chunk, then those rows, as one chunk, into the result.
//
// Launch: a grid of (column tiles, chunks); each of a block's 8 warps takes every 8th row, 16 bytes a lane; they meet
// in shared memory.
// Bytes: reads x once.
// budget: registers 40, blocks 6
#include "device.cuh"

static constexpr int WARPS = 8;

// This lane's part of `count` rows, N columns at a time.
template <int N, class X> __device__ void add_rows(const X* x, i64 ldx, int count, int left, int cols, float* sums) {
    constexpr int groups = Pack<X>::n / N;
    const int lane = threadIdx.x % 32;
    Floats<N> sum[groups] = {};
#pragma unroll(N == 1 ? 1 : 2)
    for (int row = threadIdx.x / 32; row < count; row += WARPS) {
#pragma unroll
        for (int k = 0; k < groups; ++k) {
            const int col = left + (k * 32 + lane) * N;
            if (col < cols) {
                const Floats<N> v = load<N>(x + row * ldx + col);
#pragma unroll
                for (int i = 0; i < N; ++i) sum[k].v[i] += v.v[i];
            }
        }
    }
#pragma unroll
    for (int k = 0; k < groups; ++k) store(sums + (k * 32 + lane) * N, sum[k]);
}

template <class X, class Y>
__device__ void column_sums(const X* x, i64 ldx, int rows, int cols, int chunk, Y* y, i64 ldy, int add) {
    constexpr int n = Pack<X>::n, width = 32 * n;
    __shared__ __align__(16) float sums[WARPS][width];
    const int left = blockIdx.x * width;
    const i64 first = i64(blockIdx.y) * chunk;
    const int count = min(i64(chunk), rows - first);
    x += first * ldx, y += blockIdx.y * ldy;
    if (cols % n == 0 && aligned16(x, ldx))
        add_rows<n>(x, ldx, count, left, cols, sums[threadIdx.x / 32]);
    else
        add_rows<1>(x, ldx, count, left, cols, sums[threadIdx.x / 32]);
    __syncthreads();
    const int col = left + threadIdx.x;
    if (threadIdx.x < width && col < cols) {
        float total = 0.f;
#pragma unroll
        for (int warp = 0; warp < WARPS; ++warp) total += sums[warp][threadIdx.x];
        y[col] = from_float<Y>(add ? to_float(y[col]) + total : total);
    }
}

#define INSTANCE(X, Y)                                                                                                  \
    KERNEL(WARPS * 32, 6)                                                                                               \
    column_sums_##X##_##Y(const X* x, i64 ldx, int rows, int cols, int chunk, Y* y, i64 ldy, int add) {                 \
        column_sums(x, ldx, rows, cols, chunk, y, ldy, add);                                                            \
    }
INSTANCE(f32, f32)
INSTANCE(bf16, f32)
INSTANCE(f32, bf16)
