#!/usr/bin/env python3
"""Runs the probes on a GPU of compute capability 9.0 and writes their outputs to h100.bin, beside this file.

Needs the NVIDIA driver and NVRTC 12.8 or newer (as PyTorch, cupy or nvidia-cuda-nvrtc bring it); no Python package is
imported. `run.py --check` only compiles. NVRTC is searched in NVRTC (a file), in the Python path and in
/usr/local/cuda.

Format of h100.bin: for each probe, length of the name (u32), name, length of the data (u32), data.
"""
import ctypes as C, glob, os, struct, sys

HERE = os.path.dirname(os.path.abspath(__file__))
M = (1 << 64) - 1


def splitmix(seed):
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & M
        z = seed
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & M
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & M
        yield z ^ z >> 31


SMALL = {  # encodings of 0..8
    "bf16": [0, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0, 0x4100],
    "f16": [0, 0x3C00, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600, 0x4700, 0x4800],
    "e4m3": [0, 0x38, 0x40, 0x44, 0x48, 0x4A, 0x4C, 0x4E, 0x50],
    "e5m2": [0, 0x3C, 0x40, 0x42, 0x44, 0x45, 0x46, 0x47, 0x48],
    "f32i": [0, 0x3F800000, 0x40000000, 0x40400000, 0x40800000, 0x40A00000, 0x40C00000, 0x40E00000, 0x41000000],
}
SMALL["tf32"] = SMALL["f32i"]
WIDTH = {"bf16": 16, "f16": 16, "e4m3": 8, "e5m2": 8, "f32i": 32, "tf32": 32}
EDGE = [0, 0x80000000, 1, 0x80000001, 0x007FFFFF, 0x00800000, 0x3F800000, 0xBF800000, 0x3F000000, 0x3FC00000, 0x40200000, 0x7F7FFFFF,
        0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x7F800001, 0x4F000000, 0xCF000000, 0x4F800000, 0x5F000000, 0x43800000, 0x477FE000,
        0x477FF000, 0x33000000, 0x33800000, 0x38800000, 0xFFFFFFFF, 0x7FFFFFFF, 31, 32, 33]
EDGE64 = [0, 1 << 63, 1, 0x000FFFFFFFFFFFFF, 0x0010000000000000, 0x3FF0000000000000, 0xBFF0000000000000, 0x3FE0000000000000, 0x3FF8000000000000,
          0x7FEFFFFFFFFFFFFF, 0x7FF0000000000000, 0xFFF0000000000000, 0x7FF8000000000000, 0x43E0000000000000, 0xC3E0000000000000, 0x41E0000000000000,
          0x47EFFFFFE0000000, 0x36A0000000000000]


def words(kind, n, rng):
    out = []
    if kind in SMALL:
        w = WIDTH[kind]
        for _ in range(n):
            v = 0
            for at in range(0, 32, w):
                r = next(rng) % 17
                bits = SMALL[kind][abs(r - 8)] | ((1 << (w - 1)) if r < 8 else 0)
                v |= bits << at
            out.append(v)
    elif kind == "bits":
        out = [next(rng) >> 32 for _ in range(n)]
    elif kind == "f32r":  # 1 to 2, all mantissa bits
        out = [0x3F800000 | next(rng) >> 41 for _ in range(n)]
    elif kind == "edge":
        for _ in range(n):
            r = next(rng)
            k = r >> 32 & 3
            out.append(EDGE[r % len(EDGE)] if k == 0 else (next(rng) >> 32) if k == 1 else 0x3E000000 + (next(rng) >> 37) if k == 2 else (next(rng) >> 32) & 0x801FFFFF | 0x3F000000 + (next(rng) & 0xF) * 0x00800000)
    elif kind == "edge64":
        for _ in range(n // 2):
            r = next(rng)
            k = r >> 32 & 3
            v = EDGE64[r % len(EDGE64)] if k == 0 else next(rng) if k == 1 else 0x3FC0000000000000 + (next(rng) >> 8) if k == 2 else next(rng) & 0x800FFFFFFFFFFFFF | 0x3FF0000000000000 + (next(rng) & 0x1F) * 0x0010000000000000
            out += [v & 0xFFFFFFFF, v >> 32]
    else:
        raise SystemExit(f"input kind {kind}")
    return out


def inputs(spec, name):
    seed = 0xCBF29CE484222325
    for b in name.encode():
        seed = ((seed ^ b) * 0x100000001B3) & M
    rng = splitmix(seed)
    out = []
    for part in spec.split(","):
        kind, n = part.split(":")
        out += words(kind, int(n), rng)
    return struct.pack(f"<{len(out)}I", *out)


def find_nvrtc():
    if os.environ.get("NVRTC"):
        return os.environ["NVRTC"]
    places = []
    for p in sys.path:
        for pattern in ("nvidia/cu*/lib/libnvrtc.so.*", "nvidia/cuda_nvrtc/lib/libnvrtc.so.*", "torch/lib/libnvrtc*.so*"):
            places += glob.glob(os.path.join(p, pattern))
    places += glob.glob("/usr/local/cuda*/lib64/libnvrtc.so.1?") + glob.glob("/usr/local/cuda*/targets/*/lib/libnvrtc.so.1?")
    places = [p for p in places if "alt" not in p and "builtins" not in p]
    if not places:
        raise SystemExit("NVRTC not found: set NVRTC to libnvrtc.so")
    return sorted(places)[-1]


def compiler():
    path = find_nvrtc()
    for b in sorted(glob.glob(os.path.join(os.path.dirname(path), "libnvrtc-builtins*.so*"))):
        try:
            C.CDLL(b)
        except OSError:
            pass
    print("NVRTC:", path)
    n = C.CDLL(path)
    header = open(os.path.join(HERE, "../tests/kernels/device.h"), "rb").read()

    def compile(name):
        p = C.c_void_p()
        src = open(os.path.join(HERE, name), "rb").read()
        assert n.nvrtcCreateProgram(C.byref(p), src, name.encode(), 1, (C.c_char_p * 1)(header), (C.c_char_p * 1)(b"device.h")) == 0
        opts = [b"--gpu-architecture=sm_90a", b"--std=c++17", b"-default-device"]
        r = n.nvrtcCompileProgram(p, len(opts), (C.c_char_p * len(opts))(*opts))
        size = C.c_size_t()
        if r:
            n.nvrtcGetProgramLogSize(p, C.byref(size))
            log = C.create_string_buffer(size.value)
            n.nvrtcGetProgramLog(p, log)
            raise SystemExit(f"{name}: " + log.value.decode())
        n.nvrtcGetCUBINSize(p, C.byref(size))
        b = C.create_string_buffer(size.value)
        n.nvrtcGetCUBIN(p, b)
        return b.raw

    return compile


ELEMENT = {"u8": (0, 1), "f16": (6, 2), "f32": (7, 4), "bf16": (9, 2)}


def main():
    probes = [l.split() for l in open(os.path.join(HERE, "probes.txt")) if l.strip() and not l.startswith("#")]
    compile = compiler()
    cubins = {f: compile(f) for f in sorted({p[1] for p in probes})}
    if "--check" in sys.argv:
        print("compiled", {k: len(v) for k, v in cubins.items()})
        return
    cu = C.CDLL("libcuda.so.1")

    def ok(r, what):
        if r:
            s = C.c_char_p()
            cu.cuGetErrorString(r, C.byref(s))
            raise SystemExit(f"{what}: {r} {s.value}")

    ok(cu.cuInit(0), "cuInit")
    dev, ctx = C.c_int(), C.c_void_p()
    ok(cu.cuDeviceGet(C.byref(dev), 0), "cuDeviceGet")
    ok(cu.cuDevicePrimaryCtxRetain(C.byref(ctx), dev), "context")
    ok(cu.cuCtxSetCurrent(ctx), "cuCtxSetCurrent")
    modules = {}
    for f, b in cubins.items():
        m = C.c_void_p()
        ok(cu.cuModuleLoadData(C.byref(m), b), f"load {f}")
        modules[f] = m
    result = b""
    for p in probes:
        kernel, file, grid, block, shared, spec, size = p[0], p[1], int(p[2]), int(p[3]), int(p[4]), p[5], int(p[6])
        extra = dict(x.split("=", 1) for x in p[8:] if "=" in x)
        name = extra.get("name", kernel)
        data = inputs(spec, name)
        din, dout = C.c_uint64(), C.c_uint64()
        ok(cu.cuMemAlloc_v2(C.byref(din), C.c_size_t(len(data))), "alloc")
        ok(cu.cuMemAlloc_v2(C.byref(dout), C.c_size_t(size)), "alloc")
        ok(cu.cuMemcpyHtoD_v2(din, data, C.c_size_t(len(data))), "copy")
        ok(cu.cuMemsetD8_v2(dout, C.c_ubyte(0xEE), C.c_size_t(size)), "memset")
        args = [din, dout]
        keep = []
        if "map" in extra:
            el, dims, box, step, sw, nan, coords = extra["map"].split(":")
            ints = lambda s: [int(v) for v in s.split("x")]
            dims, box, step, coords = ints(dims), ints(box), ints(step), ints(coords)
            code, width = ELEMENT[el]
            strides, s = [], width
            for d in dims[:-1]:
                s *= d
                strides.append(s)
            raw = C.create_string_buffer(128 + 64)
            at = (C.addressof(raw) + 63) & ~63
            r = len(dims)
            base = dout if "store" in p else din
            ok(cu.cuTensorMapEncodeTiled(C.c_void_p(at), code, r, base, (C.c_uint64 * r)(*dims), (C.c_uint64 * max(r - 1, 1))(*(strides or [0])),
                                         (C.c_uint32 * r)(*box), (C.c_uint32 * r)(*step), 0, int(sw), 0, int(nan)), f"{name}: tensor map")
            keep.append(raw)
            args += [(C.c_char * 128).from_address(at), C.c_uint32(shared)] + [C.c_int(c) for c in (coords + [0] * 5)[:5]]
        if "args" in extra:
            args += [C.c_uint32(int(v)) for v in extra["args"].split(",")]
        fn = C.c_void_p()
        ok(cu.cuModuleGetFunction(C.byref(fn), modules[file], kernel.encode()), kernel)
        if shared > 48 * 1024:
            ok(cu.cuFuncSetAttribute(fn, 8, shared), "shared memory")
        pointers = (C.c_void_p * len(args))(*[C.cast(C.byref(a) if not isinstance(a, C.Array) else a, C.c_void_p) for a in args])
        ok(cu.cuLaunchKernel(fn, grid, 1, 1, block, 1, 1, shared, None, pointers, None), f"launch {name}")
        ok(cu.cuCtxSynchronize(), f"run {name}")
        out = C.create_string_buffer(size)
        ok(cu.cuMemcpyDtoH_v2(out, dout, C.c_size_t(size)), "copy")
        result += struct.pack("<I", len(name)) + name.encode() + struct.pack("<I", size) + out.raw
        cu.cuMemFree_v2(din)
        cu.cuMemFree_v2(dout)
    path = os.path.join(os.environ.get("OUT", HERE), "h100.bin")
    with open(path, "wb") as f:
        f.write(result)
    print(f"{len(probes)} probes, {len(result)} bytes in {path}")


if __name__ == "__main__":
    main()
