//! Tensors that are stacked from several of a container's: those of the experts of a layer.

use std::collections::BTreeMap;

use crate::arch::{Expected, Place};

/// Stacks that are not whole yet.
#[derive(Default)]
pub(super) struct Stacks(BTreeMap<String, Stack>);

struct Stack {
    /// What the container calls its matrices, by which llama.cpp's converter orders those of a layer.
    matrix: String,
    dims: Vec<u64>,
    /// Container's tensors by their place.
    parts: Vec<Option<usize>>,
}

/// A stack and the container's tensors in it, in their order.
pub(super) struct Whole {
    pub(super) name: String,
    pub(super) parts: Vec<usize>,
}

impl Stacks {
    /// Puts tensor `index` of the container, called `name` there, at its place in the stack that `expected` describes. Gives the shape
    /// that it must have; none if there is no such place.
    pub(super) fn put(&mut self, place: &Place, expected: &Expected, (index, name): (usize, &str)) -> Option<Vec<u64>> {
        let (last, dims) = expected.dims.split_last()?;
        let matrix = name.rsplit('.').nth(1).unwrap_or_default().to_owned();
        let new = || Stack { matrix, dims: dims.to_vec(), parts: vec![None; *last as usize] };
        let stack = self.0.entry(place.tensor.clone()).or_insert_with(new);
        let part = stack.parts.get_mut(place.index?)?;
        *part = part.or(Some(index));
        Some(stack.dims.clone())
    }

    /// The stacks of the layer of `tensor` if all that have begun are whole: in the order of llama.cpp's converter.
    pub(super) fn take_layer(&mut self, tensor: &str) -> Vec<Whole> {
        let layer = tensor.rsplitn(3, '.').nth(2).unwrap_or_default().to_owned() + ".";
        let of_layer = || self.0.iter().filter(|(name, _)| name.starts_with(&layer));
        if of_layer().count() < MATRICES || of_layer().any(|(_, stack)| stack.parts.contains(&None)) {
            return Vec::new();
        }
        let mut names: Vec<String> = of_layer().map(|(name, _)| name.clone()).collect();
        names.sort_by(|a, b| self.0[a].matrix.cmp(&self.0[b].matrix));
        let whole = names.into_iter().map(|name| {
            let stack = self.0.remove(&name).expect("it was just seen");
            Whole { name, parts: stack.parts.into_iter().flatten().collect() }
        });
        whole.collect()
    }

    /// The first part that is missing in a stack that has begun: the place of the tensor.
    pub(super) fn missing(&self) -> Option<Place> {
        self.0.iter().find_map(|(name, stack)| {
            let index = stack.parts.iter().position(Option::is_none)?;
            Some(Place { tensor: name.clone(), index: Some(index) })
        })
    }
}

/// Stacks of a layer.
const MATRICES: usize = 3;
