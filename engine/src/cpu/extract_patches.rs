use crate::Result;
use crate::cpu::CpuBackend;
use crate::cpu::matrix::Matrix;
use crate::ops::ExtractPatches;

pub fn fast(_: &CpuBackend, args: &ExtractPatches) -> Result<()> {
    let pixels = args.pixels.read::<f32>()?;
    let (size, patch, grid) = (args.size, args.patch, args.size / args.patch);
    let mut y = args.y.write::<f32>()?;
    for row in 0..args.y.rows() {
        let (image, cell) = (pixels.row(row / (grid * grid)), row % (grid * grid));
        let (top, left) = (cell / grid * patch, cell % grid * patch);
        for (line, target) in y.row_mut(row).chunks_exact_mut(patch).enumerate() {
            let (channel, dy) = (line / patch, line % patch);
            let start = (channel * size + top + dy) * size + left;
            target.copy_from_slice(&image[start..start + patch]);
        }
    }
    Ok(())
}

pub fn reference(args: &ExtractPatches) -> Result<()> {
    let pixels = Matrix::load(args.pixels)?;
    let (size, patch, grid) = (args.size, args.patch, args.size / args.patch);
    let mut y = Matrix::zeros(args.y.rows(), args.y.cols());
    for i in 0..y.rows {
        let (image, cell) = (i / (grid * grid), i % (grid * grid));
        for j in 0..y.cols {
            let (channel, dy, dx) = (j / (patch * patch), j / patch % patch, j % patch);
            let (row, col) = (cell / grid * patch + dy, cell % grid * patch + dx);
            y[(i, j)] = pixels[(image, (channel * size + row) * size + col)];
        }
    }
    y.store(args.y)
}
