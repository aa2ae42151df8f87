// Attention and its gradient in f32 without tensor cores, for any head width: see attention.cu and attention_backward.cu
// for what is computed.
//
// Launch: 128 threads; a warp per query row and head, or per key row and key head. Lanes take one key (query) each for
// the scores and one column each for the sums. Wider heads than 128 columns are done in turns that compute the scores
// again.
// Flops: 4 (forward), 6 (dq), 8 (dk, dv) head_dim per query, head and key seen.
// budget: registers 67, blocks 4
#include "device.cuh"

static constexpr int THREADS = 128, BLOCKS = 4, WIDTH = 128;

__device__ __forceinline__ float dot(const float* x, const float* y, int cols, bool wide) {
    float sum[4] = {};
#pragma unroll 1
    for (int col = 0; col < cols; col += 4) {
        const Pack<float> a = load_pack(x, col, cols, wide), b = load_pack(y, col, cols, wide);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i] = fmaf(a.v[i], b.v[i], sum[i]);
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Columns lane, lane + 32, .. of a sum of rows.
struct Columns {
    float at[WIDTH / 32] = {};

    __device__ __forceinline__ void scale(float factor) {
#pragma unroll
        for (float& x : at) x *= factor;
    }

    // Adds factor times `cols` columns of a row.
    __device__ __forceinline__ void add(float factor, const float* row, int cols) {
#pragma unroll
        for (int i = 0; i < WIDTH / 32; ++i) {
            if (i * 32 >= cols) break;
            const int col = threadIdx.x % 32 + 32 * i;
            if (col < cols) at[i] = fmaf(factor, row[col], at[i]);
        }
    }

    __device__ __forceinline__ void store(float* row, int cols) const {
#pragma unroll
        for (int i = 0; i < WIDTH / 32; ++i) {
            const int col = threadIdx.x % 32 + 32 * i;
            if (col < cols) row[col] = at[i];
        }
    }
};

KERNEL(THREADS, BLOCKS)
attention_plain_f32(const float* q, i64 ldq, const float* k, i64 ldk, const float* v, i64 ldv, const u32* bounds_q,
                    const u32* bounds_k, int documents, int t, int s, int heads, int group, int cols, float scale,
                    int causal, float* o, i64 ldo, float* lse, i64 ld_lse) {
    const int lane = threadIdx.x % 32;
    const u32 task = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (task >= u32(t) * heads) return;
    const int row = task / heads, head = task % heads, document = find_document(bounds_q, documents, row);
    const Range queries = document_rows(bounds_q, documents, document, t);
    const Range keys = document < documents ? document_rows(bounds_k, documents, document, s) : Range{0, 0};
    const int last = causal ? row - queries.begin + keys.len - queries.len : keys.len - 1;
    const int seen = max(0, min(keys.len, last + 1));
    q += row * ldq + head * cols, o += row * ldo + head * cols;
    k += keys.begin * ldk + head / group * cols, v += keys.begin * ldv + head / group * cols;
    const bool wide = aligned16(q, 0) && aligned16(k, ldk);

    float largest = -INFINITY, total = 0.f;
#pragma unroll 1
    for (int first = 0; first < cols; first += WIDTH) {
        Columns sum;
        largest = -INFINITY, total = 0.f;
#pragma unroll 1
        for (int key = 0; key < seen; key += 32) {
            const float score = key + lane < seen ? scale * dot(q, k + (key + lane) * ldk, cols, wide) : -INFINITY;
            const float top = fmaxf(largest, warp_max(score)), correction = expf(largest - top), p = expf(score - top);
            largest = top, total = total * correction + warp_sum(p);
            sum.scale(correction);
#pragma unroll 1
            for (int j = 0; j < min(32, seen - key); ++j)
                sum.add(__shfl_sync(FULL, p, j), v + (key + j) * ldv + first, cols - first);
        }
        sum.scale(seen > 0 ? 1.f / total : 0.f);
        sum.store(o + first, cols - first);
    }
    if (lane == 0) lse[row * ld_lse + head] = seen > 0 ? largest + logf(total) : document < documents ? -INFINITY : 0.f;
}

struct Gradient {
    const float* qkv;
    i64 ld;
    const u32* bounds;
    int documents, t, heads, group, cols;
    float scale;
    int causal;
    const float2* statistics;
    const float* d_o;
    i64 ld_do;
    float* dqkv;
    i64 ld_dqkv;
};

// p and ds of a query and a key, from the statistics that attention_delta leaves.
__device__ __forceinline__ float2 weights(const Gradient& g, const float* q, const float* k, const float* v,
                                          const float* d_o, float2 statistics) {
    const bool wide = aligned16(q, g.ld) && aligned16(k, 0) && aligned16(v, 0) && aligned16(d_o, g.ld_do);
    const float p = exp2f(fmaf(dot(q, k, g.cols, wide), g.scale * 1.44269504f, -statistics.x));
    return make_float2(p, p * (dot(d_o, v, g.cols, wide) - statistics.y) * g.scale);
}

__device__ __forceinline__ void gradient_of_queries(const Gradient& g) {
    const int lane = threadIdx.x % 32, kv_heads = g.heads / g.group;
    const u32 task = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (task >= u32(g.t) * g.heads) return;
    const int row = task / g.heads, head = task % g.heads, document = find_document(g.bounds, g.documents, row);
    const Range rows = document_rows(g.bounds, g.documents, document, g.t);
    const int seen = document == g.documents ? 0 : g.causal ? row - rows.begin + 1 : rows.len;
    const float *q = g.qkv + row * g.ld + head * g.cols, *d_o = g.d_o + row * g.ld_do + head * g.cols;
    const float* k = g.qkv + rows.begin * g.ld + (g.heads + head / g.group) * g.cols;
    const float* v = k + kv_heads * g.cols;
    const float2 statistics = g.statistics[head * i64(g.t) + row];
#pragma unroll 1
    for (int first = 0; first < g.cols; first += WIDTH) {
        Columns dq;
#pragma unroll 1
        for (int key = 0; key < seen; key += 32) {
            float2 w = make_float2(0.f, 0.f);
            const i64 at = (key + lane) * g.ld;
            if (key + lane < seen) w = weights(g, q, k + at, v + at, d_o, statistics);
            __syncwarp();
#pragma unroll 1
            for (int j = 0; j < min(32, seen - key); ++j)
                dq.add(__shfl_sync(FULL, w.y, j), k + (key + j) * g.ld + first, g.cols - first);
        }
        dq.store(g.dqkv + row * g.ld_dqkv + head * g.cols + first, g.cols - first);
    }
}

__device__ __forceinline__ void gradient_of_keys(const Gradient& g) {
    const int lane = threadIdx.x % 32, kv_heads = g.heads / g.group;
    const u32 task = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (task >= u32(g.t) * kv_heads) return;
    const int row = task / kv_heads, kv = task % kv_heads, document = find_document(g.bounds, g.documents, row);
    const Range rows = document_rows(g.bounds, g.documents, document, g.t);
    const int begin = g.causal ? row : rows.begin, end = document == g.documents ? 0 : rows.begin + rows.len;
    const int k_col = (g.heads + kv) * g.cols, v_col = k_col + kv_heads * g.cols;
    const float *k = g.qkv + row * g.ld + k_col, *v = g.qkv + row * g.ld + v_col;
#pragma unroll 1
    for (int first = 0; first < g.cols; first += WIDTH) {
        Columns dk, dv;
#pragma unroll 1
        for (int head = kv * g.group; head < (kv + 1) * g.group; ++head) {
            const float *q = g.qkv + head * g.cols, *d_o = g.d_o + head * g.cols;
#pragma unroll 1
            for (int query = begin; query < end; query += 32) {
                float2 w = make_float2(0.f, 0.f);
                const i64 mine = query + lane;
                if (mine < end)
                    w = weights(g, q + mine * g.ld, k, v, d_o + mine * g.ld_do, g.statistics[head * i64(g.t) + mine]);
                __syncwarp();
#pragma unroll 1
                for (int j = 0; j < min(32, end - query); ++j) {
                    dv.add(__shfl_sync(FULL, w.x, j), d_o + (query + j) * g.ld_do + first, g.cols - first);
                    dk.add(__shfl_sync(FULL, w.y, j), q + (query + j) * g.ld + first, g.cols - first);
                }
            }
        }
        float* target = g.dqkv + row * g.ld_dqkv + first;
        dk.store(target + k_col, g.cols - first);
        dv.store(target + v_col, g.cols - first);
    }
}

#define INSTANCE(NAME, FUNCTION)                                                                                         \
    KERNEL(THREADS, BLOCKS)                                                                                              \
    NAME(const float* qkv, i64 ld, const u32* bounds, int documents, int t, int heads, int group, int cols, float scale, \
         int causal, const float2* statistics, const float* d_o, i64 ld_do, float* dqkv, i64 ld_dqkv) {                  \
        FUNCTION(Gradient{qkv, ld, bounds, documents, t, heads, group, cols, scale, causal, statistics, d_o, ld_do,      \
                          dqkv, ld_dqkv});                                                                               \
    }
INSTANCE(attention_plain_dq_f32, gradient_of_queries)
INSTANCE(attention_plain_dkdv_f32, gradient_of_keys)
