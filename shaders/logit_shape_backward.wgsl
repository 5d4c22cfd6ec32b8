// dz = dz scale (1 - (z / softcap)^2) where z is what logit_shape has made, in place; four elements per invocation.
#import grid

struct Params { grid: Grid, len: u32, scale: f32, softcap: f32, pad: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> z: array<f32>;
@group(0) @binding(2) var<storage, read_write> dz: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        let index = group * 1024u + i * 256u + local;
        if index < params.len {
            var share = 0.0;
            if params.softcap != 0.0 {
                share = z[index] / params.softcap;
            }
            dz[index] *= params.scale * (1.0 - share * share);
        }
    }
}
