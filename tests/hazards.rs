//! The order of device work: what the emulated device must notice, and what it must let pass.

use std::sync::Arc;

use vila_cuda::{
    Block, CudaBackend, DevicePtr, Driver, Emulated, EmulatedOptions, Error, HostPtr, Pool, Result, Span, Stream,
};
use vila_engine::{Backend, DType, Owner, Tensor};

const BYTES: usize = 64;

fn device() -> Arc<Emulated> {
    seeded(0)
}

fn seeded(seed: u64) -> Arc<Emulated> {
    Arc::new(Emulated::new(EmulatedOptions { seed, ..EmulatedOptions::default() }))
}

fn streams(device: &Emulated) -> (Stream, Stream) {
    (device.stream().expect("stream"), device.stream().expect("stream"))
}

fn memory(device: &Emulated) -> Span {
    Span { ptr: device.alloc(BYTES).expect("memory"), bytes: BYTES }
}

fn block(pool: &Arc<Pool>) -> Block {
    pool.alloc(BYTES, Owner::Activations).expect("block")
}

/// Orders later work of `then` after earlier work of `first`.
fn order(device: &Emulated, first: Stream, then: Stream) {
    let event = device.event().expect("event");
    device.record(event, first).expect("record");
    device.wait(then, event).expect("wait");
}

fn read(device: &Emulated, stream: Stream, from: Span) -> Result<Vec<u8>> {
    let host = device.alloc_host(from.bytes)?;
    device.copy_to_host(stream, from, host, 0)?;
    device.synchronize(stream)?;
    let mut bytes = vec![0; from.bytes];
    device.read_host(host, 0, &mut bytes)?;
    device.free_host(host)?;
    Ok(bytes)
}

#[track_caller]
fn hazard<T>(result: Result<T>, words: &[&str]) {
    let Err(Error::Hazard(message)) = result else { panic!("nothing was noticed") };
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
}

#[test]
fn streams_need_an_event_between_them() {
    let device = device();
    let (one, two) = streams(&device);
    let (x, y) = (memory(&device), memory(&device));
    device.fill(one, x, 1).expect("fill");
    // Write, then read; write, then write; read, then write.
    hazard(device.copy(two, x, y), &["a copy on stream 1 reads", "a fill", "record an event"]);
    hazard(device.fill(two, x, 2), &["a fill on stream 1 writes"]);
    order(&device, one, two);
    device.copy(two, x, y).expect("after the event");
    hazard(device.fill(one, x, 3), &["a fill on stream 0 writes", "a copy on stream 1 reads"]);
    // Both may read.
    device.copy(one, x, memory(&device)).expect("two readers");
    assert_eq!(read(&device, two, y).expect("read"), [1; BYTES]);
    // The host has waited for stream 1.
    device.fill(one, x, 3).expect("after the host waited");
}

#[test]
fn an_event_orders_only_what_was_enqueued_before_it() {
    let device = device();
    let (one, two) = streams(&device);
    let (x, y) = (memory(&device), memory(&device));
    device.fill(one, x, 1).expect("fill");
    order(&device, one, two);
    device.fill(one, y, 1).expect("fill");
    hazard(device.fill(two, y, 2), &["a fill on stream 1 writes"]);
    device.fill(two, x, 2).expect("ordered");
}

#[test]
fn order_passes_through_a_third_stream() {
    let device = device();
    let (one, two) = streams(&device);
    let three = device.stream().expect("stream");
    let x = memory(&device);
    device.fill(one, x, 1).expect("fill");
    order(&device, one, two);
    order(&device, two, three);
    device.fill(three, x, 2).expect("ordered");
    assert_eq!(read(&device, three, x).expect("read"), [2; BYTES]);
}

#[test]
fn a_block_is_not_handed_out_while_another_stream_uses_it() {
    for tells in [false, true] {
        let device = device();
        let (one, two) = streams(&device);
        let pool = Pool::new(device.clone(), one);
        let source = memory(&device);
        device.fill(two, source, 7).expect("fill");
        let first = block(&pool);
        let span = first.span();
        order(&device, one, two);
        device.copy(two, source, span).expect("copy");
        if tells {
            first.used_on(two);
        }
        drop(first);
        match pool.alloc(BYTES, Owner::Activations) {
            Ok(again) => {
                assert!(tells, "the early reuse was not noticed");
                assert_eq!(again.span(), span, "the pool hands the block out again");
                device.fill(one, span, 9).expect("ordered by the pool");
                assert_eq!(read(&device, one, span).expect("read"), [9; BYTES]);
            }
            Err(error) => {
                assert!(!tells, "{error}");
                assert!(error.to_string().contains("a copy on stream 1 writes"), "{error}");
            }
        }
    }
}

#[test]
fn a_block_that_went_back_is_nobodys() {
    let device = device();
    let stream = device.stream().expect("stream");
    let pool = Pool::new(device.clone(), stream);
    let first = block(&pool);
    let span = first.span();
    device.fill(stream, span, 1).expect("fill");
    drop(first);
    hazard(device.fill(stream, span, 2), &["returned to the pool"]);
    hazard(device.copy(stream, span, memory(&device)), &["returned to the pool"]);
    let again = block(&pool);
    assert_eq!(again.span(), span);
    assert_eq!(read(&device, stream, span).expect("read"), [0xFF; BYTES], "what it held is gone");
}

#[test]
fn a_host_buffer_outlives_its_copy() {
    let device = device();
    let stream = device.stream().expect("stream");
    let x = memory(&device);
    let start = || -> HostPtr {
        let host = device.alloc_host(BYTES).expect("host memory");
        device.write_host(host, 0, &[3; BYTES]).expect("write");
        device.copy_to_device(stream, host, 0, x).expect("copy");
        host
    };
    let host = start();
    hazard(device.free_host(host), &["freed while a copy to the device"]);
    hazard(device.write_host(host, 0, &[4; 1]), &["the host writes", "a copy to the device"]);
    let mut bytes = [0; 1];
    device.read_host(host, 0, &mut bytes).expect("both only read");
    device.synchronize(stream).expect("synchronize");
    device.write_host(host, 0, &[4; 1]).expect("after the copy");
    device.free_host(host).expect("after the copy");
    assert_eq!(read(&device, stream, x).expect("read"), [3; BYTES]);

    let host = device.alloc_host(BYTES).expect("host memory");
    device.copy_to_host(stream, x, host, 0).expect("copy");
    hazard(device.read_host(host, 0, &mut bytes), &["the host reads", "a copy to the host"]);
    let event = device.event().expect("event");
    device.record(event, stream).expect("record");
    assert!(!device.is_done(event).expect("query"));
    device.synchronize_event(event).expect("synchronize");
    device.read_host(host, 0, &mut bytes).expect("after the copy");
    assert_eq!(bytes, [3]);
}

#[test]
fn device_memory_outlives_the_work_on_it() {
    let device = device();
    let (one, two) = streams(&device);
    let x = memory(&device);
    device.fill(one, x, 1).expect("fill");
    hazard(device.free(x.ptr), &["is freed while a fill"]);
    device.synchronize(two).expect("synchronize");
    hazard(device.free(x.ptr), &["is freed while a fill"]);
    device.synchronize(one).expect("synchronize");
    device.free(x.ptr).expect("after the work");
    assert!(device.free(x.ptr).is_err(), "freed twice");
    assert!(device.free(DevicePtr(1)).is_err(), "never allocated");
}

/// Two streams that hand numbers to each other.
fn relay(seed: u64) -> Vec<u8> {
    let device = seeded(seed);
    let (one, two) = streams(&device);
    let pool = Pool::new(device.clone(), one);
    let total = block(&pool);
    device.fill(one, total.span(), 0).expect("fill");
    for round in 0..BYTES {
        let part = block(&pool);
        device.fill(one, part.span(), round as u8).expect("fill");
        order(&device, one, two);
        let at = |span: Span| Span { ptr: span.ptr.offset(round), bytes: 1 };
        device.copy(two, at(part.span()), at(total.span())).expect("copy");
        part.used_on(two);
        if round % 5 == 0 {
            order(&device, two, one);
            device.fill(one, at(total.span()), 200).expect("fill");
        }
    }
    order(&device, two, one);
    let bytes = read(&device, one, total.span()).expect("read");
    total.used_on(two);
    bytes
}

#[test]
fn the_interleaving_does_not_matter() {
    let expected: Vec<u8> = (0..BYTES).map(|round| if round % 5 == 0 { 200 } else { round as u8 }).collect();
    for seed in 0..10 {
        assert_eq!(relay(seed), expected, "seed {seed}");
    }
}

#[test]
fn uploads_may_be_changed_at_once() {
    let cuda = CudaBackend::new(device()).expect("backend");
    let (x, y) = (cuda.alloc(DType::F32, 4, 4).expect("tensor"), cuda.alloc(DType::F32, 4, 4).expect("tensor"));
    let mut bytes = vec![1; 64];
    cuda.upload(&bytes, &x).expect("upload");
    bytes.fill(2);
    cuda.upload(&bytes, &y).expect("upload");
    assert_eq!(cuda.download(&x).expect("download"), [1; 64]);
    assert_eq!(cuda.download(&y).expect("download"), [2; 64]);
}

#[test]
fn out_of_memory_says_who_holds_it() {
    let options = EmulatedOptions { memory: 8 << 20, ..EmulatedOptions::default() };
    let cuda = CudaBackend::new(Arc::new(Emulated::new(options))).expect("backend");
    let mib =
        |owner, count: usize| -> vila_engine::Result<Tensor> { cuda.alloc_for(owner, DType::F32, count, 1 << 18) };
    let weights = mib(Owner::Weights, 2).expect("fits");
    let optimizer = mib(Owner::Optimizer, 3).expect("fits");
    let activations = mib(Owner::Activations, 1).expect("fits");
    let message = mib(Owner::Activations, 4).expect_err("does not fit").to_string();
    let expected = [format!("{} bytes asked for", 4 << 20), "weights 2.0 MiB".into(), "optimizer 3.0 MiB".into()];
    for words in expected.iter().map(String::as_str).chain(["activations 1.0 MiB", "lower the stage's `capacity`"]) {
        assert!(message.contains(words), "{words} is not in: {message}");
    }
    // Cached blocks of other sizes are given back to the device first.
    drop((optimizer, activations));
    let large = mib(Owner::Activations, 5).expect("fits after others went");
    assert_eq!(cuda.memory().held.of(Owner::Activations), 5 << 20);
    assert_eq!(cuda.memory().cached, 0);
    drop((weights, large));
    let bytes = vec![7; 6 << 20];
    let again = mib(Owner::Weights, 6).expect("fits");
    cuda.upload(&bytes, &again).expect("works as before");
    assert_eq!(cuda.download(&again).expect("download"), bytes);
}
