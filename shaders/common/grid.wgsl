// The logical index of a workgroup. The host cuts a long grid into several dispatches and folds each into two
// dimensions, so a kernel sees only `group_index` and leaves when `is_outside`.
// Every `Params` starts with `grid: Grid`.
struct Grid {
    first: u32,
    end: u32,
    width: u32,
    // Holds 0 at run time: see `opaque`.
    zero: u32,
}

fn group_index(workgroup: vec3<u32>) -> u32 {
    return params.grid.first + workgroup.y * params.grid.width + workgroup.x;
}

fn is_outside(group: u32) -> bool {
    return group >= params.grid.end;
}

// The value of x, hidden from the compiler: no contraction, no reassociation, no folding across it.
fn opaque(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ params.grid.zero);
}
