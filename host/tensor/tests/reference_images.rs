//! Operations on images, and normalizations, against a plain f64 reference written from the WebNN
//! specification, on random shapes and attributes.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod plain;

use plain::*;
use proptest::prelude::*;
use warren_tensor::*;

/// Shape and index of an image tensor in a layout, from batch, channel, row, column.
fn lay(layout: InputLayout, [n, c, h, w]: [usize; 4]) -> [usize; 4] {
    if layout == InputLayout::Nhwc { [n, h, w, c] } else { [n, c, h, w] }
}

fn unlay(layout: InputLayout, at: &[usize]) -> [usize; 4] {
    if layout == InputLayout::Nhwc { [at[0], at[3], at[1], at[2]] } else { [at[0], at[1], at[2], at[3]] }
}

const LAYOUTS: [InputLayout; 2] = [InputLayout::Nchw, InputLayout::Nhwc];

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_global_rejects: 1 << 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn transposed_convolutions(
        n in 1..3usize, groups in 1..4usize, icg in 1..5usize, ocg in 1..5usize, size in (1..7usize, 1..9usize), kernel in (1..4usize, 1..4usize),
        pad in prop::array::uniform4(0..3u32), strides in prop::array::uniform2(1..4u32), dilations in prop::array::uniform2(1..3u32),
        more in prop::array::uniform2(0..3u32), sized in any::<bool>(), layouts in (0..2usize, 0..3usize), bias in any::<bool>(), half in any::<bool>(), seed in any::<u64>(), w in 0..2usize,
    ) {
        let ((h, iw), (kh, kw)) = (size, kernel);
        let full = |i: usize, s: u32, k: usize, d: u32| (i - 1) * s as usize + (k - 1) * d as usize + 1;
        let most = [full(h, strides[0], kh, dilations[0]), full(iw, strides[1], kw, dilations[1])];
        let cut = [(pad[0] + pad[1]) as usize, (pad[2] + pad[3]) as usize];
        let more = [more[0].min(strides[0] - 1), more[1].min(strides[1] - 1)];
        prop_assume!(most[0] + more[0] as usize > cut[0] && most[1] + more[1] as usize > cut[1]);
        prop_assume!(most[0] > cut[0] && most[1] > cut[1]);
        let out = [most[0] - cut[0] + more[0] as usize, most[1] - cut[1] + more[1] as usize];
        let c = ConvTranspose2d {
            padding: pad, strides, dilations, groups: groups as u32,
            output_padding: if sized { [0; 2] } else { more },
            output_sizes: sized.then_some(out.map(|v| v as u32)),
            input_layout: LAYOUTS[layouts.0],
            filter_layout: [TransposeFilterLayout::Iohw, TransposeFilterLayout::Hwoi, TransposeFilterLayout::Ohwi][layouts.1],
        };
        let (ic, oc) = (groups * icg, groups * ocg);
        let x = Dense::noise(&lay(c.input_layout, [n, ic, h, iw]), seed);
        let filter_index = |i: usize, o: usize, y: usize, x: usize| [[i, o, y, x], [y, x, o, i], [o, y, x, i]][layouts.1];
        let f = Dense::noise(&filter_index(ic, ocg, kh, kw), seed ^ 1);
        let b = Dense::noise(&[oc], seed ^ 2);
        let round = |d: &Dense| Dense { shape: d.shape.clone(), data: d.data.iter().map(|&v| if half { half::f16::from_f64(v).to_f64() } else { v }).collect() };
        let (x, f, b) = (round(&x), round(&f), round(&b));
        // Every input element is spread over the output.
        let mut want = Dense::from_fn(&lay(c.input_layout, [n, oc, out[0], out[1]]), |at| {
            if bias { b.data[unlay(c.input_layout, at)[1]] } else { 0.0 }
        });
        let shape = want.shape.clone();
        Dense::from_fn(&x.shape.clone(), |at| {
            let [image, i, y, xx] = unlay(c.input_layout, at);
            for o in 0..ocg {
                for ky in 0..kh {
                    for kx in 0..kw {
                        let oy = (y * strides[0] as usize + ky * dilations[0] as usize).wrapping_sub(pad[0] as usize);
                        let ox = (xx * strides[1] as usize + kx * dilations[1] as usize).wrapping_sub(pad[2] as usize);
                        if oy < out[0] && ox < out[1] {
                            let to = lay(c.input_layout, [image, i / icg * ocg + o, oy, ox]);
                            let offset = to.iter().zip(&shape).fold(0, |s, (v, d)| s * d + v);
                            want.data[offset] += x.at(at) * f.at(&filter_index(i, o, ky, kx));
                        }
                    }
                }
            }
            0.0
        });
        let t = if half { DataType::Float16 } else { DataType::Float32 };
        let mut inputs = vec![(t, &x), (t, &f)];
        if bias { inputs.push((t, &b)); }
        let (found_type, found) = compute(w, Op::ConvTranspose2d(c), &inputs)?;
        prop_assert_eq!(found_type, t);
        close(&found, &want, if half { 2e-3 } else { 1e-4 })?;
    }

    #[test]
    fn poolings(
        n in 1..3usize, c in 1..5usize, size in (1..9usize, 1..9usize), window in prop::option::of((1..5u32, 1..5u32)), pad in prop::array::uniform4(0..3u32),
        strides in prop::array::uniform2(1..4u32), dilations in prop::array::uniform2(1..3u32), layout in 0..2usize, kind in 0..3usize, up in any::<bool>(), sized in any::<bool>(),
        data in 0..8usize, seed in any::<u64>(), w in 0..2usize,
    ) {
        let (h, iw) = size;
        let layout = LAYOUTS[layout];
        let t = if kind == 2 { DataType::ALL[data] } else { DataType::ALL[data % 2] };
        let k = window.map_or([h as u32, iw as u32], |(a, b)| [a, b]);
        let pad = if sized { [0; 4] } else { pad };
        let room = |i: usize, a: usize| (i as u32 + pad[2 * a] + pad[2 * a + 1]) as i64 - ((k[a] - 1) * dilations[a] + 1) as i64;
        prop_assume!(room(h, 0) >= 0 && room(iw, 1) >= 0);
        let out = |i: usize, a: usize| {
            let (r, s) = (room(i, a), i64::from(strides[a]));
            (if up { (r + s - 1) / s } else { r / s }) as usize + 1
        };
        let out = [out(h, 0), out(iw, 1)];
        let p = Pool2d {
            window: window.map(|(a, b)| [a, b]), padding: pad, strides, dilations, layout,
            rounding: if up && !sized { Rounding::Ceil } else { Rounding::Floor },
            output_sizes: sized.then_some(out.map(|v| v as u32)),
        };
        let x = whole(&lay(layout, [n, c, h, iw]), seed, if t == DataType::Uint8 || t.name().starts_with('u') { 0 } else { -50 }, 50);
        let least = match t { DataType::Int8 => -128.0, DataType::Int32 => f64::from(i32::MIN), DataType::Int64 => i64::MIN as f64, _ if t.is_float() => f64::NEG_INFINITY, _ => 0.0 };
        let want = Dense::from_fn(&lay(layout, [n, c, out[0], out[1]]), |at| {
            let [image, channel, y, xx] = unlay(layout, at);
            let mut seen = Vec::new();
            for ky in 0..k[0] {
                for kx in 0..k[1] {
                    let iy = (y as u32 * strides[0] + ky * dilations[0]).wrapping_sub(pad[0]) as usize;
                    let ix = (xx as u32 * strides[1] + kx * dilations[1]).wrapping_sub(pad[2]) as usize;
                    if iy < h && ix < iw { seen.push(x.at(&lay(layout, [image, channel, iy, ix]))); }
                }
            }
            match kind {
                0 => seen.iter().sum::<f64>() / seen.len().max(1) as f64,
                1 => seen.iter().map(|v| v * v).sum::<f64>().sqrt(),
                _ => seen.iter().copied().fold(least, f64::max),
            }
        });
        let kind = [Pooling::Average, Pooling::L2, Pooling::Max][kind];
        let (found_type, found) = compute(w, Op::Pool2d(kind, p), &[(t, &x)])?;
        prop_assert_eq!(found_type, t);
        close(&found, &want, if t == DataType::Float16 { 1e-3 } else { 1e-6 })?;
    }

    #[test]
    fn resamplings(to in prop::collection::vec(1..7usize, 4), axes in (0..4usize, 0..4usize), sizes in (1..12u32, 1..12u32), by_scale in any::<bool>(), linear in any::<bool>(), data in 0..4usize, seed in any::<u64>(), w in 0..2usize) {
        prop_assume!(axes.0 != axes.1);
        let t = [DataType::Float32, DataType::Float16, DataType::Int8, DataType::Uint8][data];
        let x = whole(&to, seed, 0, 100);
        let places = [axes.0, axes.1];
        let scales = [sizes.0 as f32 * 0.4 + 0.3, sizes.1 as f32 * 0.7 + 0.3];
        let out: Vec<usize> = (0..2).map(|i| {
            if by_scale { (to[places[i]] as f64 * f64::from(scales[i])).floor() as usize } else { [sizes.0, sizes.1][i] as usize }
        }).collect();
        prop_assume!(out.iter().all(|&v| v > 0));
        let mut shape = to.clone();
        (0..2).for_each(|i| shape[places[i]] = out[i]);
        let want = Dense::from_fn(&shape, |at| {
            let coordinate = |i: usize| {
                let scale = out[i] as f64 / to[places[i]] as f64;
                ((at[places[i]] as f64 + 0.5) / scale - 0.5).clamp(0.0, to[places[i]] as f64 - 1.0)
            };
            let (y, xx) = (coordinate(0), coordinate(1));
            let pick = |y: f64, xx: f64| {
                let mut at = at.to_vec();
                at[places[0]] = y as usize;
                at[places[1]] = xx as usize;
                x.at(&at)
            };
            if !linear {
                // Halfway is the one before, whatever the rounding of the quotient.
                return pick((y - 0.5 - 1e-9).ceil().max(0.0), (xx - 0.5 - 1e-9).ceil().max(0.0));
            }
            let (ty, tx) = (y - y.floor(), xx - xx.floor());
            let row = |y: f64| pick(y, xx.floor()) * (1.0 - tx) + pick(y, xx.ceil()) * tx;
            row(y.floor()) * (1.0 - ty) + row(y.ceil()) * ty
        });
        let r = Resample2d {
            mode: if linear { Interpolation::Linear } else { Interpolation::NearestNeighbor },
            scales: if by_scale { scales } else { [1.0; 2] },
            sizes: (!by_scale).then_some([sizes.0, sizes.1]),
            axes: places.map(|a| a as u32),
        };
        let (found_type, found) = compute(w, Op::Resample2d(r), &[(t, &x)])?;
        prop_assert_eq!(found_type, t);
        let tolerance = match t { DataType::Float32 => 1e-6, DataType::Float16 => 1e-3, _ if linear => 0.51, _ => 0.0 };
        if tolerance == 0.51 {
            // Rounded to a whole number.
            for (f, v) in found.data.iter().zip(&want.data) {
                prop_assert!((f - v).abs() <= 0.5 + 1e-6, "{} is not {} rounded", f, v);
            }
        } else {
            close(&found, &want, tolerance)?;
        }
    }

    #[test]
    fn normalizations(to in prop::collection::vec(1..7usize, 4), kind in 0..3usize, mask in any::<u32>(), turn in any::<u32>(), axis in 0..4usize, layout in 0..2usize, extras in (any::<bool>(), any::<bool>()), epsilon in prop_oneof![Just(1e-5), Just(0.5)], half in any::<bool>(), seed in any::<u64>(), w in 0..2usize) {
        let (scale, bias) = extras;
        let t = if half { DataType::Float16 } else { DataType::Float32 };
        let small = |mut d: Dense| { d.data.iter_mut().for_each(|v| *v = (*v * 16.0).round() / 16.0); d };
        let x = small(Dense::noise(&to, seed));
        // Axes whose elements share mean and variance, and the axes along which parameters lie.
        let channel = if layout == 0 { 1 } else { 3 };
        let mut axes: Vec<usize> = (0..4).filter(|i| mask & (1 << i) != 0).collect();
        axes.sort_by_key(|&a| (turn >> (4 * a)) & 15);
        let (shared, along): (Vec<usize>, Vec<usize>) = match kind {
            0 => (Vec::new(), vec![axis]),
            1 => ((1..4).filter(|&a| a != channel).collect(), vec![channel]),
            _ => (axes.clone(), axes.clone()),
        };
        let lengths: Vec<usize> = along.iter().map(|&a| to[a]).collect();
        let parameter = |seed: u64| small(Dense::noise(&lengths, seed));
        let (s, b, mean, mut variance) = (parameter(seed ^ 1), parameter(seed ^ 2), parameter(seed ^ 3), parameter(seed ^ 4));
        variance.data.iter_mut().for_each(|v| *v = v.abs() + 0.25);
        let want = Dense::from_fn(&to, |at| {
            let place: Vec<usize> = along.iter().map(|&a| at[a]).collect();
            let (m, v) = if kind == 0 { (mean.at(&place), variance.at(&place)) } else {
                let mut same = Vec::new();
                Dense::from_fn(&to, |other| {
                    if (0..4).all(|a| shared.contains(&a) || other[a] == at[a]) { same.push(x.at(other)); }
                    0.0
                });
                let m = same.iter().sum::<f64>() / same.len() as f64;
                (m, same.iter().map(|v| (v - m) * (v - m)).sum::<f64>() / same.len() as f64)
            };
            let factor = if scale { s.at(&place) } else { 1.0 };
            (x.at(at) - m) / (v + epsilon).sqrt() * factor + if bias { b.at(&place) } else { 0.0 }
        });
        let op = match kind {
            0 => Op::BatchNormalization { axis: axis as u32, epsilon, scale, bias },
            1 => Op::InstanceNormalization { layout: LAYOUTS[layout], epsilon, scale, bias },
            _ => Op::LayerNormalization { axes: Some(dims(&axes)), epsilon, scale, bias },
        };
        let mut inputs = vec![(t, &x)];
        if kind == 0 { inputs.extend([(t, &mean), (t, &variance)]); }
        if scale { inputs.push((t, &s)); }
        if bias { inputs.push((t, &b)); }
        let (found_type, found) = compute(w, op, &inputs)?;
        prop_assert_eq!(found_type, t);
        close(&found, &want, if half { 2e-3 } else { 2e-5 })?;
    }
}
