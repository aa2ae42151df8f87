//! Who holds memory, and when it is given back.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use vila_autograd::{ParamStore, Tape};
use vila_engine::philox::Stream;
use vila_engine::{Backend, CpuBackend, DType, Owner};
use vila_model::{Document, Images, PackedBatch, VilaModel};
use vila_train::bench::preset;

use crate::nvrtc;

/// Activations held when the backward pass has finished each decoder layer, the last layer first, and before it.
fn held_while_walking_back(backend: &dyn Backend, layers: usize) -> (usize, Vec<usize>) {
    let mut config = preset("toy").expect("preset");
    config.llm.layers = layers;
    let store = ParamStore::new(backend, VilaModel::specs(&config), DType::F32, 1, |_| true).expect("store");
    let model = VilaModel::new(backend, &config, &store).expect("model");
    let mut random = Stream::new(2, 2);
    let tokens = (0..200).map(|_| random.below(config.llm.vocab_size) as u32).collect();
    let document = Document { tokens, supervised: (0..200).map(|position| position > 0).collect() };
    let batch = PackedBatch::new(&[document], Images::None, 1, 1).expect("batch");
    let finished = RefCell::new(BTreeMap::new());
    let activations = || backend.memory().held.of(Owner::Activations);
    let mut tape = Tape::new(backend, &store).on_complete(|id| {
        let name = &store.spec(id).name;
        if let Some(prefix) = name.strip_suffix(".input_layernorm.weight") {
            let layer: usize = prefix.rsplit('.').next().and_then(|number| number.parse().ok()).expect("layer");
            finished.borrow_mut().insert(layer, activations());
        }
    });
    let loss = model.loss(&mut tape, &batch, 1.0).expect("loss").expect("targets");
    let forward = activations();
    tape.backward_loss(&loss).expect("backward");
    let held = finished.borrow().values().rev().copied().collect();
    (forward, held)
}

/// The CPU and the emulated device.
fn backends() -> Vec<Arc<dyn Backend>> {
    std::iter::once(Arc::new(CpuBackend::fast()) as Arc<dyn Backend>).chain(nvrtc::device()).collect()
}

#[test]
fn activations_of_a_layer_are_gone_before_the_backward_of_the_second_below() {
    backends().iter().for_each(|backend| layers_are_freed(&**backend, 6));
}

fn layers_are_freed(backend: &dyn Backend, layers: usize) {
    let (forward, held) = held_while_walking_back(backend, layers);
    assert_eq!(held.len(), layers);
    let per_layer = (held[0] - held[layers - 1]) / (layers - 1);
    assert!(per_layer * layers > forward / 2, "a layer keeps {per_layer} of {forward} bytes");
    for (index, pair) in held.windows(2).enumerate() {
        let freed = pair[0].saturating_sub(pair[1]);
        assert!(10 * freed >= 9 * per_layer, "layer {} freed {freed} of {per_layer} bytes", layers - 1 - index);
    }
}

#[test]
fn owners_add_up_to_the_peak() {
    for backend in backends() {
        held_while_walking_back(&*backend, 2);
        let stats = backend.memory();
        let difference = stats.held_at_peak.total().abs_diff(stats.peak);
        assert!(100 * difference <= stats.peak, "{}: {} of {}", backend.name(), stats.held_at_peak, stats.peak);
        assert!(stats.held_at_peak.of(Owner::Weights) > 0 && stats.held_at_peak.of(Owner::Gradients) > 0);
        assert_eq!(stats.in_use, stats.held.total());
    }
}
