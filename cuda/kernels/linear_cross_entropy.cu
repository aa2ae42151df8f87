// Cross-entropy of rows of logits and, in their place, its gradient.
//
// linear_cross_entropy: one block of 512 threads per row. row_loss = logsumexp(logits) - logits[target]; then, if asked,
// logits = scale (softmax(logits) - one_hot(target)) as type T, from the start of the f32 row, which has whole packs and starts on 16 bytes. A row with target NO_ROW, or
// with a wrong one, has neither loss nor gradient.
// linear_cross_entropy_total: one block of 512 threads, loss += scale * the rows' losses in a fixed order.
// Bytes per logit: read 4, twice (the second may come from L2), write 4 or 2.
// budget: registers 32, blocks 4
#include "device.cuh"

static constexpr int THREADS = 512;
static constexpr float LOG2_E = 1.44269504f;

__device__ __forceinline__ float block_max(float x, float* scratch) {
    constexpr int warps = THREADS / 32;
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_max(scratch[threadIdx.x % warps]);
}

template <class T>
__device__ void cross_entropy(float* logits, i64 ld, const u32* targets, float scale, bool gradient, float* row_loss,
                              int first_row, int cols, IndexFault* fault, u32 op) {
    constexpr int n = Pack<float>::n, stride = THREADS * n;
    __shared__ float scratch[THREADS / 32];
    logits += blockIdx.x * ld;
    const u32 row = first_row + blockIdx.x;
    const u32 target = targets[row];
    const bool supervised = target < u32(cols);
    if (!supervised && target != NO_ROW && threadIdx.x == 0) report(fault, op, row, target, cols);

    float max = -INFINITY, sum = 0.f;
#pragma unroll 1
    for (int col = threadIdx.x * n; col < cols; col += stride) {
        const Pack<float> x = load_pack(logits + col, 0, n, true);
        float higher = max;
#pragma unroll
        for (int i = 0; i < n; ++i) higher = col + i < cols ? fmaxf(higher, x.v[i]) : higher;
        sum *= exp2_approx((max - higher) * LOG2_E);
        max = higher;
#pragma unroll
        for (int i = 0; i < n; ++i) sum += col + i < cols ? exp2_approx((x.v[i] - max) * LOG2_E) : 0.f;
    }
    const float top = block_max(max, scratch);
    sum = block_sum<THREADS>(sum * exp2_approx((max - top) * LOG2_E), scratch);
    if (threadIdx.x == 0) row_loss[row] = supervised ? (top - logits[target]) + logf(sum) : 0.f;
    if (!gradient) return;

    const float factor = scale / sum;
    T* out = reinterpret_cast<T*>(logits);
#pragma unroll 1
    for (int start = 0; start < cols; start += stride) {
        const int col = start + threadIdx.x * n;
        Pack<float> x = {};
        if (col < cols) x = load_pack(logits + col, 0, n, true);
        // What is written lies over logits that this or an earlier round has read, of other threads for a narrower type.
        if constexpr (sizeof(T) < sizeof(float)) __syncthreads();
        if (col >= cols) continue;
        float y[n];
#pragma unroll
        for (int i = 0; i < n; ++i) {
            const float p = exp2_approx((x.v[i] - top) * LOG2_E) * factor;
            y[i] = supervised ? (col + i == target ? p - scale : p) : 0.f;
        }
        if constexpr (sizeof(T) == sizeof(float))
            *reinterpret_cast<float4*>(out + col) = make_float4(y[0], y[1], y[2], y[3]);
        else
            *reinterpret_cast<uint2*>(out + col) = make_uint2(pack_bf16(y[0], y[1]), pack_bf16(y[2], y[3]));
    }
}

#define INSTANCE(T)                                                                                                       \
    KERNEL(THREADS, 4)                                                                                                    \
    linear_cross_entropy_##T(float* logits, i64 ld, const u32* targets, float scale, int gradient, float* row_loss,       \
                             int first_row, int cols, IndexFault* fault, u32 op) {                                        \
        cross_entropy<T>(logits, ld, targets, scale, gradient != 0, row_loss, first_row, cols, fault, op);                \
    }
INSTANCE(f32)
INSTANCE(bf16)

KERNEL(THREADS, 4) linear_cross_entropy_total(const float* row_loss, int rows, double scale, float* loss) {
    __shared__ double scratch[THREADS / 32];
    double mine = 0.0;
#pragma unroll 1
    for (int row = threadIdx.x; row < rows; row += THREADS) mine += double(row_loss[row]);
    const double total = block_sum<THREADS>(mine, scratch);
    if (threadIdx.x == 0) *loss += float(total * scale);
}
