//! Which basic blocks of a kernel were executed.

/// Executed basic blocks of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionCoverage {
    /// Kernel or device function.
    pub function: String,
    /// For each basic block, in the order of the PTX: was it executed, its first PTX line, its first source line.
    pub blocks: Vec<BlockCoverage>,
}

/// One basic block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCoverage {
    /// Was it executed?
    pub executed: bool,
    /// First line in the PTX.
    pub ptx_line: u32,
    /// First line in the source; 0 without line information.
    pub line: u32,
}

/// Executed basic blocks of a launch: the kernel first, then the functions that it can reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// One entry per function.
    pub functions: Vec<FunctionCoverage>,
}

impl Coverage {
    /// Executed and all basic blocks.
    pub fn count(&self) -> (usize, usize) {
        let all = self.functions.iter().flat_map(|f| &f.blocks);
        (all.clone().filter(|b| b.executed).count(), all.count())
    }

    /// Share of executed basic blocks, 0 to 1.
    pub fn ratio(&self) -> f64 {
        let (executed, all) = self.count();
        if all == 0 { 1.0 } else { executed as f64 / all as f64 }
    }

    /// Source lines of blocks that were never executed.
    pub fn missed_lines(&self) -> Vec<u32> {
        let mut lines: Vec<u32> =
            self.functions.iter().flat_map(|f| &f.blocks).filter(|b| !b.executed).map(|b| b.line).collect();
        lines.sort_unstable();
        lines.dedup();
        lines
    }

    /// Adds what another launch of the same kernel executed.
    pub fn merge(&mut self, other: &Coverage) {
        if self.functions.is_empty() {
            *self = other.clone();
            return;
        }
        for (f, g) in self.functions.iter_mut().zip(&other.functions) {
            for (b, c) in f.blocks.iter_mut().zip(&g.blocks) {
                b.executed |= c.executed;
            }
        }
    }
}
