// The last dispatch of a submission proves that it ran: it leaves the job's number and counts the jobs.
#import grid

struct Params { grid: Grid, job: u32, pad0: u32, pad1: u32, pad2: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> status: array<u32, 2>;

@compute @workgroup_size(1)
fn main() {
    status[0] = params.job ^ 0xD06F00D5u;
    status[1] += 1u;
}
