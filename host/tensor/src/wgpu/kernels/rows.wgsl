// What a workgroup of 256 reduces together.
var<workgroup> shared_lanes: array<f32, 256>;

fn sum_of_lanes(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    shared_lanes[lane] = value;
    for (var half = 128u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if lane < half { shared_lanes[lane] += shared_lanes[lane + half]; }
    }
    workgroupBarrier();
    return shared_lanes[0];
}

fn largest_of_lanes(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    shared_lanes[lane] = value;
    for (var half = 128u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if lane < half { shared_lanes[lane] = max_float(shared_lanes[lane], shared_lanes[lane + half]); }
    }
    workgroupBarrier();
    return shared_lanes[0];
}
