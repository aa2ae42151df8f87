use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use vila_files::NewFolder;

use crate::lora::adapter_config;
use crate::weights::{Component, RawTensor, vila_files, write_safetensors};
use crate::{Error, Result, Vila};

impl Vila {
    /// Writes the model in the three-folder layout, weights as f32, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] if `dir` is there already or cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let folder = NewFolder::begin(dir).map_err(Error::io(dir))?;
        self.write(folder.path())?;
        folder.commit().map_err(Error::io(dir))
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let Vila { config, store, extras, .. } = self;
        let backend = self.backend();
        for (name, bytes) in vila_files(config, self.tokenizer.file_bytes(), &self.processor) {
            create(&dir.join(name))?.write_all(&bytes).map_err(Error::io(dir.join(name)))?;
        }
        if let Some(lora) = &config.lora {
            let (path, json) = (dir.join("lora/adapter_config.json"), adapter_config(backend, config, lora, store)?);
            create(&path)?.write_all(format!("{json:#}\n").as_bytes()).map_err(Error::io(&path))?;
        }
        for component in Component::ALL {
            let tensors = component.tensors(backend, store, extras)?;
            let absent = match component {
                Component::Lora => config.lora.is_none(),
                _ => component.is_optional() && tensors.is_empty(),
            };
            if !absent {
                write_tensors(&dir.join(component.file()), &tensors)?;
            }
        }
        Ok(())
    }
}

fn write_tensors(path: &Path, tensors: &BTreeMap<String, RawTensor>) -> Result<()> {
    let mut sink = BufWriter::new(create(path)?);
    write_safetensors(tensors, &mut sink).and_then(|()| sink.flush()).map_err(Error::io(path))
}

fn create(path: &Path) -> Result<File> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    vila_files::create(path).map_err(Error::io(path))
}
