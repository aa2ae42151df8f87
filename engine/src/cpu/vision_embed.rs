use crate::Result;
use crate::cpu::matrix::Matrix;
use crate::cpu::{CpuBackend, math};
use crate::ops::{VisionEmbed, VisionEmbedBackward};

pub fn fast(_: &CpuBackend, args: &VisionEmbed) -> Result<()> {
    let (patches, positions) = (args.patches.read::<f32>()?, args.positions.read::<f32>()?);
    let class = args.class.map(|class| class.to_f32()).transpose()?;
    let length = args.positions.rows();
    let skip = usize::from(class.is_some());
    let mut y = args.y.write::<f32>()?;
    for row in 0..args.y.rows() {
        let (image, position) = (row / length, row % length);
        let content = match &class {
            Some(class) if position == 0 => class.as_slice(),
            _ => patches.row(image * (length - skip) + position - skip),
        };
        for ((y, x), p) in y.row_mut(row).iter_mut().zip(content).zip(positions.row(position)) {
            *y = x + p;
        }
    }
    Ok(())
}

pub fn backward_fast(_: &CpuBackend, args: &VisionEmbedBackward) -> Result<()> {
    let dy = args.dy.read::<f32>()?;
    let (length, skip) = (args.rows_per_image, usize::from(args.has_class));
    if let Some(dpatches) = args.dpatches {
        let mut dpatches = dpatches.write::<f32>()?;
        for row in (0..args.dy.rows()).filter(|row| row % length >= skip) {
            dpatches.row_mut(row / length * (length - skip) + row % length - skip).copy_from_slice(dy.row(row));
        }
    }
    if let Some(dclass) = args.dclass {
        let mut dclass = dclass.write::<f32>()?;
        for row in (0..args.dy.rows()).step_by(length) {
            math::add_assign(dclass.slice_mut(), dy.row(row));
        }
    }
    if let Some(dpositions) = args.dpositions {
        let mut dpositions = dpositions.write::<f32>()?;
        for row in 0..args.dy.rows() {
            math::add_assign(dpositions.row_mut(row % length), dy.row(row));
        }
    }
    Ok(())
}

pub fn reference(args: &VisionEmbed) -> Result<()> {
    let (patches, positions) = (Matrix::load(args.patches)?, Matrix::load(args.positions)?);
    let class = args.class.map(Matrix::load).transpose()?;
    let skip = usize::from(class.is_some());
    let mut y = Matrix::zeros(args.y.rows(), args.y.cols());
    for image in 0..y.rows / positions.rows {
        for position in 0..positions.rows {
            for c in 0..y.cols {
                let content = match &class {
                    Some(class) if position == 0 => class.flat()[c],
                    _ => patches[(image * (positions.rows - skip) + position - skip, c)],
                };
                y[(image * positions.rows + position, c)] = content + positions[(position, c)];
            }
        }
    }
    y.store(args.y)
}

pub fn backward_reference(args: &VisionEmbedBackward) -> Result<()> {
    let dy = Matrix::load(args.dy)?;
    let (length, skip) = (args.rows_per_image, usize::from(args.has_class));
    if let Some(out) = args.dpatches {
        let mut dpatches = Matrix::zeros(out.rows(), out.cols());
        for i in 0..dpatches.rows {
            let (image, patch) = (i / (length - skip), i % (length - skip));
            dpatches.row_mut(i).copy_from_slice(dy.row(image * length + patch + skip));
        }
        dpatches.store(out)?;
    }
    if let Some(out) = args.dclass {
        let mut dclass = Matrix::load(out)?;
        for row in (0..dy.rows).step_by(length) {
            dclass.flat_mut().iter_mut().zip(dy.row(row)).for_each(|(d, x)| *d += x);
        }
        dclass.store(out)?;
    }
    if let Some(out) = args.dpositions {
        let mut dpositions = Matrix::load(out)?;
        for row in 0..dy.rows {
            dpositions.row_mut(row % length).iter_mut().zip(dy.row(row)).for_each(|(d, x)| *d += x);
        }
        dpositions.store(out)?;
    }
    Ok(())
}
