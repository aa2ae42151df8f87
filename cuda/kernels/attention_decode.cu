// Attention of few queries over many keys, as in generation with a cache: see attention.cu for what is computed.
//
// `attention_decode`: 128 threads per query row, up to four query heads that share a key head, and one of `splits` equal
// parts of the keys that the row sees; partial sums go to [rows heads, splits, 2 + head_dim] f32 as (largest score, sum
// of exponentials, sums of values), in base 2. A group of lanes holds a key with 16 bytes a lane, for all its query
// heads.
// `attention_combine`: a warp per query row and head adds the parts in order.
// Bytes: k and v once per four query heads; it is bound by memory.
// budget: registers 135, blocks 3
#include "device.cuh"

static constexpr float LOG2E = 1.44269504f, LN2 = 0.693147181f;
static constexpr int THREADS = 128, HEADS = 4, UNROLL = 2;

// D: columns of a group of lanes, at least `cols`.
template <class T, int D>
__device__ __forceinline__ void decode(const T* q, i64 ldq, const T* k, i64 ldk, const T* v, i64 ldv, const u32* bounds_q,
                                       const u32* bounds_k, int documents, int t, int s, int heads, int group, int cols,
                                       float scale, int causal, int splits, float* partial) {
    constexpr int n = Pack<T>::n, LANES = D / n, SLOTS = THREADS / LANES;
    __shared__ float values[SLOTS][HEADS][D], tops[SLOTS][HEADS], totals[SLOTS][HEADS];
    const int chunks = (group + HEADS - 1) / HEADS, split = blockIdx.x % splits, chunk = blockIdx.x / splits % chunks;
    const int kv = blockIdx.x / splits / chunks % (heads / group), row = blockIdx.x / splits / chunks / (heads / group);
    const int head = kv * group + chunk * HEADS, count = min(HEADS, group - chunk * HEADS);
    const int document = find_document(bounds_q, documents, row);
    const Range queries = document_rows(bounds_q, documents, document, t);
    const Range keys = document < documents ? document_rows(bounds_k, documents, document, s) : Range{0, 0};
    const int last = causal ? row - queries.begin + keys.len - queries.len : keys.len - 1;
    const int seen = max(0, min(keys.len, last + 1)), share = (seen + splits - 1) / splits;
    const int begin = split * share, end = min(begin + share, seen);
    q += row * ldq + head * cols, k += keys.begin * ldk + kv * cols, v += keys.begin * ldv + kv * cols;
    const bool wide_q = aligned16(q, 0) && cols % n == 0, wide = aligned16(k, ldk) && aligned16(v, ldv);

    const int slot = threadIdx.x / LANES, col = threadIdx.x % LANES * n;
    Pack<T> query[HEADS], sum[HEADS];
    float largest[HEADS], total[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
        query[h] = load_pack(q + min(h, count - 1) * cols, col, cols, wide_q);
        largest[h] = -INFINITY, total[h] = 0.f;
#pragma unroll
        for (int i = 0; i < n; ++i) query[h].v[i] *= scale * LOG2E, sum[h].v[i] = 0.f;
    }
    __syncwarp();
#pragma unroll 1
    for (int first = begin; first < end; first += UNROLL * SLOTS) {
        Pack<T> key[UNROLL], value[UNROLL];
#pragma unroll
        for (int j = 0; j < UNROLL; ++j) {
            const i64 at = min(first + j * SLOTS + slot, end - 1);
            key[j] = load_pack(k + at * ldk, col, cols, wide), value[j] = load_pack(v + at * ldv, col, cols, wide);
        }
        __syncwarp();
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
            if (h >= count) break;
            float p[UNROLL], top = largest[h];
#pragma unroll
            for (int j = 0; j < UNROLL; ++j) {
                p[j] = 0.f;
#pragma unroll
                for (int i = 0; i < n; ++i) p[j] = fmaf(query[h].v[i], key[j].v[i], p[j]);
#pragma unroll
                for (int offset = LANES / 2; offset > 0; offset /= 2) p[j] += __shfl_xor_sync(FULL, p[j], offset);
                if (first + j * SLOTS + slot >= end) p[j] = -INFINITY;
                top = fmaxf(top, p[j]);
            }
            const float base = top == -INFINITY ? 0.f : top, correction = exp2_approx(largest[h] - base);
            largest[h] = top, total[h] *= correction;
#pragma unroll
            for (int i = 0; i < n; ++i) sum[h].v[i] *= correction;
#pragma unroll
            for (int j = 0; j < UNROLL; ++j) {
                p[j] = exp2_approx(p[j] - base), total[h] += p[j];
#pragma unroll
                for (int i = 0; i < n; ++i) sum[h].v[i] = fmaf(p[j], value[j].v[i], sum[h].v[i]);
            }
        }
    }

    // The groups of lanes, added in order.
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
#pragma unroll
        for (int i = 0; i < n; ++i) values[slot][h][col + i] = sum[h].v[i];
        if (col == 0) tops[slot][h] = largest[h], totals[slot][h] = total[h];
    }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < count * cols; i += THREADS) {
        const int h = i / cols, c = i % cols;
        float top = -INFINITY, l = 0.f, x = 0.f;
#pragma unroll
        for (int j = 0; j < SLOTS; ++j) top = fmaxf(top, tops[j][h]);
        const float base = top == -INFINITY ? 0.f : top;
#pragma unroll
        for (int j = 0; j < SLOTS; ++j) {
            const float weight = exp2_approx(tops[j][h] - base);
            l = fmaf(weight, totals[j][h], l), x = fmaf(weight, values[j][h][c], x);
        }
        float* part = partial + ((i64(row) * heads + head + h) * splits + split) * (2 + cols);
        part[2 + c] = x;
        if (c == 0) part[0] = top, part[1] = l;
    }
}

template <class T>
__device__ __forceinline__ void combine(const float* partial, int splits, const u32* bounds_q, int documents, int t,
                                        int heads, int cols, T* o, i64 ldo, float* lse, i64 ld_lse) {
    const int lane = threadIdx.x % 32, stride = 2 + cols;
    const u32 task = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (task >= u32(t) * heads) return;
    const int row = task / u32(heads), head = task % u32(heads);
    partial += i64(task) * splits * stride, o += row * ldo + head * cols;
    float top = -INFINITY, total = 0.f;
    auto each_part = [&](auto&& add) {
        int j = 0;
#pragma unroll 1
        do add(partial + j * stride);
        while (++j < splits);
    };
    each_part([&](const float* part) { top = fmaxf(top, part[0]); });
    const float base = top == -INFINITY ? 0.f : top;
    each_part([&](const float* part) { total = fmaf(exp2_approx(part[0] - base), part[1], total); });
    const float factor = total == 0.f ? 0.f : 1.f / total;
#pragma unroll 1
    for (int col = lane; col < cols; col += 32) {
        float sum = 0.f;
        each_part([&](const float* part) { sum = fmaf(exp2_approx(part[0] - base), part[2 + col], sum); });
        o[col] = from_float<T>(sum * factor);
    }
    __syncwarp();
    const bool outside = find_document(bounds_q, documents, row) == documents;
    if (lane == 0)
        lse[row * ld_lse + head] = total == 0.f ? (outside ? 0.f : -INFINITY) : (base + log2_approx(total)) * LN2;
}

#define DECODE(T, D)                                                                                                 \
    KERNEL(THREADS, 3)                                                                                               \
    attention_decode_d##D##_##T(const T* q, i64 ldq, const T* k, i64 ldk, const T* v, i64 ldv, const u32* bounds_q,  \
                                const u32* bounds_k, int documents, int t, int s, int heads, int group, int cols,    \
                                float scale, int causal, int splits, float* partial) {                               \
        decode<T, D>(q, ldq, k, ldk, v, ldv, bounds_q, bounds_k, documents, t, s, heads, group, cols, scale, causal, \
                     splits, partial);                                                                               \
    }
#define INSTANCE(T)                                                                                               \
    DECODE(T, 64)                                                                                                 \
    DECODE(T, 128)                                                                                                \
    KERNEL(THREADS, 3)                                                                                            \
    attention_combine_##T(const float* partial, int splits, const u32* bounds_q, int documents, int t, int heads, \
                          int cols, T* o, i64 ldo, float* lse, i64 ld_lse) {                                      \
        combine(partial, splits, bounds_q, documents, t, heads, cols, o, ldo, lse, ld_lse);                       \
    }
INSTANCE(f32)
INSTANCE(bf16)
