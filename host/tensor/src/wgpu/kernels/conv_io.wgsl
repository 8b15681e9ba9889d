// A convolution as products of the filter (a: channels x taps) and the input, unfolded as it is
// read (b: taps x pixels), one for each image and group. TRANSPOSED 1: `convTranspose2d`, each
// output pixel gathering the input pixels that reach it.
// P[5] input channels of a group, P[6] columns of the window, P[7] columns of the output, P[8] x
// P[9] input, P[10], P[11] padding before, P[12], P[13] strides, P[14], P[15] dilations, P[16]
// groups, P[17..20] input strides (image, channel, row, column), P[21..23] output strides (image,
// channel, pixel), P[24..27] filter strides (o, i, row, column), P[28] between groups.
@group(0) @binding(1) var<storage, read> B: array<f32>;
@group(0) @binding(2) var<storage, read> A: array<f32>;

var<private> at_input: u32;
var<private> at_filter: u32;
var<private> at_result: u32;
var<private> channel: u32;

fn begin(batch: u32) {
    let image = batch / P[16];
    let group = batch % P[16];
    channel = group * P[2];
    at_input = image * P[17] + group * P[5] * P[18];
    at_filter = group * P[28];
    at_result = image * P[21] + channel * P[22];
}

// Taps are numbered with the channels innermost.
fn load_a(row: u32, k: u32) -> f32 {
    let tap = k / P[5];
    let place = at_filter + row * P[24] + (k % P[5]) * P[25];
    return A[place + (tap / P[6]) * P[26] + (tap % P[6]) * P[27]];
}

fn load_b(k: u32, pixel: u32) -> f32 {
    let tap = k / P[5];
    let ky = tap / P[6];
    let kx = tap % P[6];
    let oy = pixel / P[7];
    let ox = pixel % P[7];
    var y: u32;
    var x: u32;
    if TRANSPOSED == 1u {
        // Below 0 wraps to far beyond the input.
        let dy = oy + P[10] - ky * P[14];
        let dx = ox + P[11] - kx * P[15];
        if dy >= 0x80000000u || dx >= 0x80000000u { return 0.0; }
        if dy % P[12] != 0u || dx % P[13] != 0u { return 0.0; }
        y = dy / P[12];
        x = dx / P[13];
    } else {
        y = oy * P[12] + ky * P[14] - P[10];
        x = ox * P[13] + kx * P[15] - P[11];
    }
    if y >= P[8] || x >= P[9] { return 0.0; }
    return B[at_input + (k % P[5]) * P[18] + y * P[19] + x * P[20]];
}

fn store(row: u32, pixel: u32, product: f32) {
    D[at_result + row * P[22] + pixel * P[23]] = activate(biased(product, channel + row));
}
