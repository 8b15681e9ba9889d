//! `matmul` over leading dimensions, and the start value of `gemm`.
// Pieces of the target that tasks write side by side.
#![allow(unsafe_code)]

use crate::cpu::context::{Context, Shared};
use crate::cpu::packed::{ALONE, Product, Right};
use crate::cpu::program::{BLOCK, Pattern};

/// `matmul`: one product for each of the broadcast leading dimensions.
#[derive(Debug, Clone)]
pub(crate) struct Matmul {
    pub product: Product,
    /// Element offsets of a and b for each product; the target is dense.
    pub batches: Vec<(usize, usize)>,
}

impl Matmul {
    /// All products.
    pub fn run(&self, context: &Context<'_>, a: &[f32], b: &[f32], target: &mut [f32]) {
        let p = &self.product;
        let size = p.m * p.n;
        if size == 0 {
            return;
        }
        // Small products are done several to a task: sharing them costs microseconds.
        let per_task = (ALONE / (size * p.k).max(1)).max(1);
        let tasks = self.batches.len().div_ceil(per_task);
        let alone = context.alone();
        if tasks < context.threads() || tasks == 1 {
            let context = if tasks == 1 && per_task > 1 { &alone } else { context };
            for (&(from_a, from_b), target) in self.batches.iter().zip(target.chunks_exact_mut(size)) {
                p.run(context, &a[from_a..], Right::Matrix(&b[from_b..]), target);
            }
            return;
        }
        let shared = Shared::new(target);
        context.for_each(tasks, |task| {
            let first = task * per_task;
            for (i, &(from_a, from_b)) in self.batches.iter().enumerate().skip(first).take(per_task) {
                // SAFETY: each product has its own piece.
                let target = unsafe { shared.piece(i * size, size) };
                p.run(&alone, &a[from_a..], Right::Matrix(&b[from_b..]), target);
            }
        });
    }
}

/// target = scale * source, read by a broadcast pattern: the start value of `gemm`.
pub(crate) fn broadcast_scaled(pattern: &Pattern, scale: f32, source: &[f32], target: &mut [f32]) {
    let Some((&(width, step), outer)) = pattern.split_last() else {
        return;
    };
    for (row, target) in target.chunks_mut(width.max(1)).enumerate() {
        let mut rest = row;
        let mut at = 0;
        for &(size, stride) in outer.iter().rev() {
            at += rest % size * stride;
            rest /= size;
        }
        for (block, target) in target.chunks_mut(BLOCK).enumerate() {
            for (i, t) in target.iter_mut().enumerate() {
                *t = scale * source[at + (block * BLOCK + i) * step];
            }
        }
    }
}
