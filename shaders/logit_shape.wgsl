// z = softcap tanh(scale z / softcap), or scale z where softcap is 0, in place; four elements per invocation.
#import grid

struct Params { grid: Grid, len: u32, scale: f32, softcap: f32, pad: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> z: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(workgroup);
    if is_outside(group) {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        let index = group * 1024u + i * 256u + local;
        if index < params.len {
            var shaped = params.scale * z[index];
            if params.softcap != 0.0 {
                // tanh, without ever making an infinity
                let small = exp(-2.0 * abs(shaped / params.softcap));
                shaped = params.softcap * sign(shaped) * (1.0 - small) / (1.0 + small);
            }
            z[index] = shaped;
        }
    }
}
