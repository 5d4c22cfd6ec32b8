//! dst = sum over experts of share * down(activation(gate(src)) * up(src)), each on those tokens that ask it.

use anyhow::Result;

use crate::device::{Buffer, Device};
use crate::graph::back::Backward;
use crate::graph::run::{Batch, Forward};
use crate::graph::{LayerWeights, LinearInput, Matrix, OneOf, Operation, Part, Value, WeightUse};
use crate::kernels::add_rows::add_rows;
use crate::kernels::gather_rows::{Rows, gather_rows};
use crate::kernels::glu::{Activation, glu};
use crate::kernels::glu_backward::glu_backward;
use crate::kernels::matmul::{matmul_rows, matmul_rows_add};
use crate::kernels::matmul_transposed::matmul_transposed;
use crate::kernels::row_dot::row_dot;

#[derive(Clone, Debug)]
pub struct Experts {
    pub src: Value,
    /// What a [`super::Router`] has written.
    pub shares: Value,
    pub dst: Value,
    /// Stacks of matrices, one of each for every expert.
    pub gate: String,
    pub up: String,
    pub down: String,
    /// Of gate, up and down, `[experts, rows]` each, where the model has them.
    pub biases: [Option<String>; 3],
    /// Columns of src and dst.
    pub width: usize,
    /// Columns in between.
    pub hidden: usize,
    pub count: usize,
    pub activation: Activation,
}

/// The tokens that ask one expert.
struct Asking {
    /// Their places, and what the expert counts for each.
    rows: Rows,
    /// The same places with 1 for each.
    plain: Rows,
    /// As often the place of the expert itself, where it has a row of biases.
    expert: Option<Rows>,
    places: Vec<u32>,
    /// How many there are of each text.
    texts: Vec<usize>,
}

impl Asking {
    fn of(batch: &Batch, shares: &[f32], expert: usize, count: usize, has_biases: bool) -> Result<Asking> {
        let device = batch.device;
        let column = shares.iter().skip(expert).step_by(count).enumerate();
        let (places, scales): (Vec<u32>, Vec<f32>) =
            column.filter(|(_, share)| **share != 0.0).map(|(token, share)| (token as u32, *share)).unzip();
        let mut texts = vec![0; batch.sequences];
        places.iter().for_each(|place| texts[*place as usize / batch.seq_len] += 1);
        let rows = Rows::upload(device, &places, &scales)?;
        let plain = rows.unscaled(device)?;
        let expert = has_biases.then(|| Rows::copies(device, expert as u32, places.len())).transpose()?;
        Ok(Asking { rows, plain, expert, places, texts })
    }

    /// Where the shares of `expert` lie in `[tokens, count]`.
    fn shares(&self, device: &Device, expert: usize, count: usize) -> Result<Rows> {
        let places: Vec<u32> = self.places.iter().map(|place| place * count as u32 + expert as u32).collect();
        Rows::upload(device, &places, &vec![1.0; places.len()])
    }

    fn count(&self) -> usize {
        self.rows.count
    }
}

/// Room for one expert at a time, used again for the next.
struct Room {
    x: Buffer,
    gate: Buffer,
    up: Buffer,
    act: Buffer,
    y: Buffer,
}

/// How many values as wide as the source, and as what is between, the way forward and the way back have inside.
const INSIDE: [usize; 2] = [2 + 3, 3 + 6];

impl Experts {
    fn room(&self, batch: &Batch) -> Result<Room> {
        let take = |width| batch.arena.take(batch.tokens(), width);
        let (x, y) = (take(self.width)?, take(self.width)?);
        Ok(Room { x, y, gate: take(self.hidden)?, up: take(self.hidden)?, act: take(self.hidden)? })
    }

    fn asking(&self, batch: &Batch, shares: &Buffer) -> Result<Vec<Asking>> {
        let shares = batch.device.read_range::<f32>(shares, 0, batch.tokens() * self.count)?;
        let has_biases = self.biases.iter().any(Option::is_some);
        (0..self.count).map(|expert| Asking::of(batch, &shares, expert, self.count, has_biases)).collect()
    }

    /// Fills `room` but for y. The tap sees what the matrices read.
    fn inner(&self, pass: &mut Forward, expert: usize, asking: &Asking, room: &Room) -> Result<()> {
        let (device, n) = (pass.batch.device, asking.count());
        let [gate, up, down] = [&self.gate, &self.up, &self.down].map(|tensor| matrix(tensor, expert));
        if n > 0 {
            gather_rows(device, pass.get(self.src), &asking.plain, &room.x, self.width)?;
        }
        self.show(pass, &[gate, up], (&room.x, self.width, true), asking)?;
        if n > 0 {
            self.gated(device, &self.gates(pass.weights, expert)?, &self.biases(pass.weights), asking, room)?;
        }
        self.show(pass, &[down], (&room.act, self.hidden, false), asking)
    }

    /// The gate and up matrices of an expert.
    fn gates(&self, weights: &LayerWeights, expert: usize) -> Result<[Part; 2]> {
        Ok([weights.part(&self.gate, expert, self.hidden)?, weights.part(&self.up, expert, self.hidden)?])
    }

    fn biases<'w>(&self, weights: &'w LayerWeights) -> [Option<&'w Buffer>; 3] {
        [0, 1, 2].map(|of| self.biases[of].as_ref().map(|name| weights.vector(name)))
    }

    /// gate, up and what comes of them, from x.
    fn gated(
        &self,
        device: &Device,
        [gate, up]: &[Part; 2],
        biases: &[Option<&Buffer>; 3],
        asking: &Asking,
        room: &Room,
    ) -> Result<()> {
        product(device, &room.x, gate, biases[0], asking, &room.gate)?;
        product(device, &room.x, up, biases[1], asking, &room.up)?;
        glu(device, self.activation, &room.gate, &room.up, &room.act, asking.count() * self.hidden)
    }

    fn show(
        &self,
        pass: &mut Forward,
        matrices: &[Matrix],
        (x, width, is_shared): (&Buffer, usize, bool),
        asking: &Asking,
    ) -> Result<()> {
        let (texts, first_text) = (&asking.texts[..], pass.batch.first_sequence);
        let experts = Some(OneOf { count: self.count, is_shared });
        pass.tap.linear_input(&LinearInput { matrices, x, width, texts, first_text, experts })
    }
}

/// y = x W^T (+ the expert's row of the biases).
fn product(
    device: &Device,
    x: &Buffer,
    part: &Part,
    biases: Option<&Buffer>,
    asking: &Asking,
    y: &Buffer,
) -> Result<()> {
    let (n, rows) = (asking.count(), part.rows.clone());
    match biases.zip(asking.expert.as_ref()) {
        None => matmul_rows(device, x, part, y, n, rows),
        Some((biases, expert)) => {
            gather_rows(device, biases, expert, y, rows.len())?;
            matmul_rows_add(device, x, part, y, n, rows)
        }
    }
}

fn matrix(tensor: &str, expert: usize) -> Matrix {
    Matrix { tensor: tensor.to_owned(), index: expert }
}

fn zeros(device: &Device, buffer: &Buffer, len: usize) -> Result<()> {
    device.write(buffer, 0, &vec![0f32; len])
}

impl Operation for Experts {
    fn name(&self) -> &'static str {
        "experts"
    }

    fn reads(&self) -> Vec<Value> {
        vec![self.src, self.shares]
    }

    fn writes(&self) -> Value {
        self.dst
    }

    fn keeps(&self) -> Vec<Value> {
        self.reads()
    }

    fn inside(&self) -> usize {
        INSIDE[0] * self.width + INSIDE[1] * self.hidden
    }

    fn weights(&self) -> Vec<WeightUse<'_>> {
        let stacks = [&self.gate, &self.up, &self.down].into_iter().map(|name| WeightUse::Stack(name));
        stacks.chain(self.biases.iter().flatten().map(|name| WeightUse::Vector(name))).collect()
    }

    fn forward(&self, pass: &mut Forward) -> Result<()> {
        let (batch, out) = (pass.batch, pass.output()?);
        let room = self.room(&batch)?;
        zeros(batch.device, &out, pass.len(self.dst))?;
        for (expert, asking) in self.asking(&batch, pass.get(self.shares))?.iter().enumerate() {
            self.inner(pass, expert, asking, &room)?;
            if asking.count() > 0 {
                let down = pass.weights.part(&self.down, expert, self.width)?;
                product(batch.device, &room.act, &down, self.biases(pass.weights)[2], asking, &room.y)?;
                add_rows(batch.device, &room.y, &asking.rows, &out, self.width)?;
            }
        }
        Ok(())
    }

    fn backward(&self, pass: &mut Backward) -> Result<()> {
        let Some(dy) = pass.take(self.dst) else { return Ok(()) };
        let (batch, device, weights) = (pass.batch, pass.batch.device, pass.weights);
        let take = |width| batch.arena.take(batch.tokens(), width);
        let (room, products) = (self.room(&batch)?, take(1)?);
        let (dout, dact, dgate, dup) = (take(self.width)?, take(self.hidden)?, take(self.hidden)?, take(self.hidden)?);
        let (dx, dshares) = (pass.room(self.src)?, pass.room(self.shares)?);
        zeros(device, &dx, pass.len(self.src))?;
        zeros(device, &dshares, pass.len(self.shares))?;
        let (asking, biases) = (self.asking(&batch, pass.get(self.shares))?, self.biases(weights));
        for (expert, asking) in asking.iter().enumerate().filter(|(_, asking)| asking.count() > 0) {
            let n = asking.count();
            let (gates, down) = (self.gates(weights, expert)?, weights.part(&self.down, expert, self.width)?);
            gather_rows(device, pass.get(self.src), &asking.plain, &room.x, self.width)?;
            self.gated(device, &gates, &biases, asking, &room)?;
            product(device, &room.act, &down, biases[2], asking, &room.y)?;

            // what the output is worth is the gradient of its share
            gather_rows(device, &dy, &asking.plain, &dout, self.width)?;
            row_dot(device, &room.y, &dout, &products, n, self.width)?;
            add_rows(device, &products, &asking.shares(device, expert, self.count)?, &dshares, 1)?;

            gather_rows(device, &dy, &asking.rows, &dout, self.width)?;
            pass.tap.linear_gradient(&matrix(&self.down, expert), &dout, n, self.width, 0)?;
            matmul_transposed(device, &dout, &down, &dact, n, down.rows.clone(), false)?;
            let values = [&room.gate, &room.up, &dact];
            glu_backward(device, self.activation, values, [&dgate, &dup], n * self.hidden)?;
            pass.tap.linear_gradient(&matrix(&self.gate, expert), &dgate, n, self.hidden, 0)?;
            pass.tap.linear_gradient(&matrix(&self.up, expert), &dup, n, self.hidden, 0)?;

            let into = &room.x;
            let [gate, up] = &gates;
            matmul_transposed(device, &dgate, gate, into, n, gate.rows.clone(), false)?;
            matmul_transposed(device, &dup, up, into, n, up.rows.clone(), true)?;
            add_rows(device, into, &asking.plain, &dx, self.width)?;
        }
        pass.give(self.shares, dshares)?;
        pass.give(self.src, dx)
    }
}
