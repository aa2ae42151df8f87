use std::collections::BTreeMap;

use vila_autograd::ParamStore;
use vila_engine::Backend;
use vila_model::lora::adapter_config;
use vila_model::weights::{Component, RawTensor, vila_files};

use super::moments::moments;
use super::write::{Content, Snapshot};
use super::{Carried, Checkpoints, TrainerState};
use crate::optimizer::Optimizer;
use crate::ranks::Collective;
use crate::{Error, Result};

impl Checkpoints {
    /// Copies what changed to host memory and starts to write it; returns when the copy is made. Every rank calls it, rank 0
    /// writes.
    ///
    /// # Errors
    /// Those of the save before, which it waits for.
    pub fn save(
        &self,
        name: &str,
        backend: &dyn Backend,
        carried: &Carried,
        store: &ParamStore,
        optimizer: &Optimizer,
        state: &TrainerState,
        collective: &dyn Collective,
    ) -> Result<()> {
        optimizer.gather_masters(backend, store, collective)?;
        let moments = optimizer.moments(backend, collective)?;
        if collective.rank() > 0 {
            return Ok(());
        }
        // Only then does the newest checkpoint say what the new one can share.
        self.finish()?;
        let json = |state| serde_json::to_vec(state).map_err(|e| Error::checkpoint(self.dir(name), e.to_string()));
        let mut files: Vec<(String, Content)> = vila_files(&carried.config, &carried.tokenizer, &carried.processor)
            .into_iter()
            .map(|(path, bytes)| (path.to_string(), Content::Bytes(bytes)))
            .collect();
        let mut frozen = Vec::new();
        for component in Component::ALL {
            let owns = |name: &str| component.local_name(name).is_some();
            let trains = store.ranges().iter().any(|range| owns(&range.name));
            if !trains {
                frozen.push(component.folder().to_string());
            }
            let content = if !trains && self.has(component, store.dtype()) {
                Content::Unchanged
            } else {
                match component.tensors(backend, store, &carried.extras)? {
                    none if none.is_empty() && component.is_optional() => continue,
                    // Adapters that add nothing are as good as none.
                    adapters if component == Component::Lora && !add_something(&adapters) => continue,
                    tensors => Content::Tensors(tensors),
                }
            };
            files.push((component.file(), content));
            if let (Component::Lora, Some(lora)) = (component, &carried.config.lora) {
                let config = adapter_config(backend, &carried.config, lora, store)?;
                files.push(("lora/adapter_config.json".into(), Content::Bytes(format!("{config:#}\n").into_bytes())));
            }
        }
        files.push(("trainer/moments.safetensors".into(), Content::Tensors(self::moments(store, moments))));
        files.push(("trainer/state.json".into(), Content::Bytes(json(state)?)));
        files.push(("trainer/recipe.toml".into(), Content::Bytes(carried.recipe.clone().into_bytes())));
        self.begin(Snapshot { name: name.into(), global_step: state.global_step, frozen, files })
    }
}

fn add_something(adapters: &Tensors) -> bool {
    let mut up = adapters.iter().filter(|(name, _)| name.ends_with("lora_B.weight"));
    up.any(|(_, raw)| raw.data.iter().any(|&byte| byte != 0))
}

/// Shorthand for the tensors of a file.
pub(super) type Tensors = BTreeMap<String, RawTensor>;
