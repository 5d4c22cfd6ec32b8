//! Every shader, composed for every weight type, passes naga's validation under the capabilities that all backends
//! share, translates to SPIR-V, MSL and HLSL, and stays within WebGPU's default limits.

use dq_gpu::device::shader;
use naga::back::{hlsl, msl, spv};
use naga::valid::{ModuleInfo, ValidationFlags, Validator};

struct Composed {
    name: String,
    module: naga::Module,
    info: ModuleInfo,
}

fn composed() -> Vec<Composed> {
    let mut all = Vec::new();
    for entry in shader::entries() {
        let weights = match shader::reads_weight(entry).unwrap() {
            true => shader::decoders().map(Some).collect(),
            false => vec![None],
        };
        for weight in weights {
            let name = weight.map_or(entry.to_owned(), |ty| format!("{entry} for {ty}"));
            let source = shader::compose(entry, weight).unwrap();
            let fail = |message: String| -> ! { panic!("{name}: {message}") };
            let module =
                naga::front::wgsl::parse_str(&source).unwrap_or_else(|error| fail(error.emit_to_string(&source)));
            let portable =
                spv::supported_capabilities() & msl::supported_capabilities() & hlsl::supported_capabilities();
            let info = Validator::new(ValidationFlags::all(), portable)
                .validate(&module)
                .unwrap_or_else(|error| fail(error.emit_to_string(&source)));
            assert_eq!(module.entry_points.len(), 1, "{name} has one entry point");
            // Overrides are resolved by the device for each pipeline; here they keep their defaults.
            let entry_point = Some((naga::ShaderStage::Compute, module.entry_points[0].name.as_str()));
            let (module, info) =
                naga::back::pipeline_constants::process_overrides(&module, &info, entry_point, &Default::default())
                    .unwrap_or_else(|error| fail(error.to_string()));
            let (module, info) = (module.into_owned(), info.into_owned());
            all.push(Composed { name, module, info });
        }
    }
    all
}

#[test]
fn every_shader_translates_to_every_backend() {
    let all = composed();
    assert!(all.len() > 15);
    for Composed { name, module, info } in &all {
        let entry = module.entry_points[0].name.clone();
        let stage = naga::ShaderStage::Compute;
        let options = spv::Options { lang_version: (1, 3), ..Default::default() };
        let pipeline = spv::PipelineOptions { shader_stage: stage, entry_point: entry.clone() };
        let words = spv::write_vec(module, info, &options, Some(&pipeline));
        assert!(!words.unwrap_or_else(|error| panic!("{name} to SPIR-V: {error}")).is_empty());

        let options = msl::Options { lang_version: (3, 0), fake_missing_bindings: true, ..Default::default() };
        let pipeline = msl::PipelineOptions { entry_point: Some((stage, entry.clone())), ..Default::default() };
        let (text, _) = msl::write_string(module, info, &options, &pipeline)
            .unwrap_or_else(|error| panic!("{name} to MSL: {error}"));
        assert!(text.contains("kernel void"), "{name}");

        let options = hlsl::Options {
            shader_model: hlsl::ShaderModel::V6_2,
            fake_missing_bindings: true,
            immediates_target: Some(hlsl::BindTarget { space: 3, ..Default::default() }),
            ..Default::default()
        };
        let pipeline = hlsl::PipelineOptions { entry_point: Some((stage, entry)) };
        let mut text = String::new();
        hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(module, info, None)
            .unwrap_or_else(|error| panic!("{name} to HLSL: {error}"));
        assert!(text.contains("numthreads"), "{name}");
    }
}

#[test]
fn every_shader_stays_within_the_default_limits() {
    for Composed { name, module, .. } in &composed() {
        let context = module.to_ctx();
        let size = |ty| u64::from(module.types[ty].inner.size(context));
        let globals = || module.global_variables.iter().map(|(_, global)| global);
        let shared: u64 =
            globals().filter(|g| g.space == naga::AddressSpace::WorkGroup).map(|global| size(global.ty)).sum();
        assert!(shared <= 16 << 10, "{name} shares {shared} bytes in a workgroup");
        let storage = globals().filter(|g| matches!(g.space, naga::AddressSpace::Storage { .. })).count();
        assert!(storage <= 8, "{name} binds {storage} storage buffers");
        let invocations: u32 = module.entry_points[0].workgroup_size.iter().product();
        assert!(invocations <= 256, "{name} has workgroups of {invocations}");
        for global in globals().filter(|g| g.space == naga::AddressSpace::Uniform) {
            assert!(size(global.ty) <= 256, "{name}: parameters larger than a slot");
        }
    }
}
