//! recode on every device: the GPU makes the codes and errors of the CPU.

use dq_gpu::device::Device;
use dq_gpu::kernels::encode::encode;
use dq_gpu::kernels::recode::{RecodeInputs, recode};
use dq_gpu::kernels::weight::Weight;
use dq_gpu::quant::{self, GgmlType, recode::unit};
use dq_gpu::rounding::coupling::Factored;

use crate::common::{self, Random};

/// One block of columns of a matrix that is a few columns wider on both sides.
struct Case {
    ty: GgmlType,
    rows: usize,
    weights: Vec<f32>,
    targets: Vec<f32>,
    coupling: Vec<f32>,
    metric: Vec<f32>,
    errors: Vec<f32>,
    bytes: Vec<u8>,
    /// Of blocks whose errors are those of their codes.
    moments: Option<Vec<f32>>,
}

const BEFORE: usize = 5;
const AFTER: usize = 3;

struct Recoded {
    bytes: Vec<u8>,
    errors: Vec<f32>,
}

impl Case {
    /// Weights, somewhat different targets, and blocks that suit the targets.
    fn new(ty: GgmlType, rows: usize, random: &mut Random) -> Case {
        let (block, unit) = (ty.block_len(), unit(ty).unwrap());
        let cpu = Device::cpu();
        let mut weights = Vec::with_capacity(rows * block);
        for row in 0..rows {
            weights.extend(random.normals(block, 0.02 * 4f32.powi(row as i32 % 5 - 2)));
        }
        let targets: Vec<f32> = weights.iter().map(|w| w * (1.0 + 0.3 * random.normal())).collect();
        let uploaded = cpu.upload("targets", &targets).unwrap();
        let importance = cpu.upload("importance", &vec![1.0f32; block]).unwrap();
        let bytes = encode(&cpu, ty, &uploaded, &importance, rows, block).unwrap().download(&cpu).unwrap();
        let errors = random.normals(rows * (BEFORE + block + AFTER), 0.01);
        let mut metric = Vec::with_capacity(block * unit);
        for _ in 0..block / unit {
            // a a^T is positive
            let a = random.normals(unit * unit, 1.0);
            for n in 0..unit {
                for m in 0..unit {
                    metric.push((0..unit).map(|k| a[n * unit + k] * a[m * unit + k]).sum::<f32>());
                }
            }
        }
        let coupling = random.normals(block * block, 0.6 / (block as f32).sqrt());
        Case { ty, rows, weights, targets, coupling, metric, errors, bytes, moments: None }
    }

    /// With the errors of the codes in the blocks, and couplings as descents have them.
    fn coded(mut self, random: &mut Random) -> Case {
        let (block, cols) = (self.ty.block_len(), self.cols());
        let mut decoded = vec![0.0; self.weights.len()];
        quant::decode(self.ty, &self.bytes, &mut decoded).unwrap();
        for (row, errors) in self.errors.chunks_exact_mut(cols).enumerate() {
            for j in 0..block {
                errors[BEFORE + j] = self.weights[row * block + j] - decoded[row * block + j];
            }
        }
        let directions = random.normals(4 * block, 1.0);
        let shared = |i: usize, j: usize| (0..4).map(|d| directions[d * block + i] * directions[d * block + j]).sum();
        let h: Vec<f32> = (0..block * block).map(|at| shared(at / block, at % block)).collect();
        let descent = Factored::new(h, block, 0.2).unwrap().descent(unit(self.ty).unwrap());
        self.coupling = descent.within(0, block);
        self.moments = Some(descent.moments(0, block));
        self.metric = descent.metric;
        self
    }

    fn cols(&self) -> usize {
        BEFORE + self.ty.block_len() + AFTER
    }

    fn on(&self, device: &Device) -> Recoded {
        self.in_slabs(device, device)
    }

    /// `small` is the same device with small bindings.
    fn in_slabs(&self, device: &Device, small: &Device) -> Recoded {
        let upload = |values: &[f32]| device.upload("input", values).unwrap();
        let blocks = Weight::upload(small, "blocks", self.ty, self.rows, self.ty.block_len(), &self.bytes).unwrap();
        let moments = self.moments.as_deref().map(upload);
        let inputs = RecodeInputs {
            targets: &upload(&self.targets),
            weights: &upload(&self.weights),
            coupling: &upload(&self.coupling),
            metric: &upload(&self.metric),
            moments: moments.as_ref(),
        };
        let errors = upload(&self.errors);
        recode(device, &blocks, &inputs, &errors, (self.cols(), BEFORE)).unwrap();
        Recoded { bytes: blocks.download(device).unwrap(), errors: device.read(&errors).unwrap() }
    }

    /// The errors of the block's columns are weights less what the bytes decode to; others are as they were.
    #[track_caller]
    fn check_errors(&self, recoded: &Recoded) {
        let (block, cols) = (self.ty.block_len(), self.cols());
        let mut decoded = vec![0.0; self.weights.len()];
        quant::decode(self.ty, &recoded.bytes, &mut decoded).unwrap();
        for row in 0..self.rows {
            for j in 0..cols {
                let (at, got) = ((row * block + j).wrapping_sub(BEFORE), recoded.errors[row * cols + j]);
                if (BEFORE..BEFORE + block).contains(&j) {
                    let want = self.weights[at] - decoded[at];
                    let bound = 1e-6 * (self.weights[at].abs() + decoded[at].abs());
                    assert!((got - want).abs() <= bound, "{} row {row} column {j}: {got} is not {want}", self.ty);
                } else {
                    assert_eq!(got, self.errors[row * cols + j], "{} row {row} column {j}", self.ty);
                }
            }
        }
    }
}

fn types() -> impl Iterator<Item = GgmlType> {
    GgmlType::all().filter(|ty| unit(*ty).is_some())
}

/// Equal bytes on llvmpipe, which rounds every operation as IEEE asks. Elsewhere division may be off by an ulp, and a near
/// tie that falls the other way changes all that follows in its row.
#[track_caller]
fn assert_same_codes(case: &Case) {
    let (ty, rows, cols) = (case.ty, case.rows, case.cols());
    let expected = case.on(&Device::cpu());
    case.check_errors(&expected);
    let Some(device) = common::gpu() else { return };
    let got = case.on(device);
    case.check_errors(&got);
    let blocks = expected.bytes.chunks(ty.block_bytes()).zip(got.bytes.chunks(ty.block_bytes()));
    let different: Vec<usize> = blocks.enumerate().filter(|(_, (a, b))| a != b).map(|(row, _)| row).collect();
    println!("{ty}: {} of {rows} blocks differ", different.len());
    let allowed = if device.name().contains("llvmpipe") { 0 } else { 1 + rows / 32 };
    assert!(different.len() <= allowed, "{ty}: blocks {different:?} of {rows} differ");
    for row in (0..rows).filter(|row| !different.contains(row)) {
        for (a, b) in expected.errors[row * cols..][..cols].iter().zip(&got.errors[row * cols..]) {
            assert!((a - b).abs() <= 1e-6, "{ty} row {row}: error {b} is not {a}");
        }
    }
}

#[test]
fn a_gpu_recodes_as_the_cpu() {
    let mut random = Random::new(11);
    assert_eq!(types().count(), 25);
    for ty in types() {
        // one row, a last workgroup that is partly empty, and full ones
        for rows in [1, 17, 64] {
            let case = Case::new(ty, rows, &mut random);
            assert_ne!(case.on(&Device::cpu()).bytes, case.bytes, "{ty}: nothing to do");
            assert_same_codes(&case);
            assert_same_codes(&case.coded(&mut random));
        }
    }
}

/// Blocks of zeros have a step of zero; inputs that are always zero give no metric and no coupling.
#[test]
fn degenerate_blocks_are_recoded_the_same() {
    let mut random = Random::new(13);
    for ty in types() {
        let mut case = Case::new(ty, 3, &mut random);
        case.bytes[..ty.block_bytes()].fill(0);
        case.metric.fill(0.0);
        case.targets[ty.block_len()..].fill(0.0);
        assert_same_codes(&case);
        case.coupling.fill(0.0);
        case.weights.fill(0.0);
        assert_same_codes(&case);
        let mut coded = case.coded(&mut random);
        assert_same_codes(&coded);
        coded.moments.as_mut().unwrap().fill(0.0);
        assert_same_codes(&coded);
    }
}

/// Rows in several slabs are recoded as rows in one.
#[test]
fn slabs_do_not_change_the_codes() {
    let mut random = Random::new(12);
    for ty in [GgmlType::Q4_0, GgmlType::Q6_K, GgmlType::IQ2_XXS] {
        let case = Case::new(ty, 11, &mut random);
        for device in common::devices() {
            let whole = case.on(&device);
            let row = ty.block_bytes().next_multiple_of(4);
            let slabs = case.in_slabs(&device, &device.with_max_binding_bytes(4 * row));
            assert_eq!(whole.bytes, slabs.bytes, "{ty} on {}", device.name());
            assert_eq!(whole.errors, slabs.errors, "{ty} on {}", device.name());
        }
    }
}
