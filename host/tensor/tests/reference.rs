//! Property tests: operations on random shapes and data against a plain f64 reference written
//! from the WebNN specification, and fused graphs against the same operations run one by one.
#![allow(clippy::unwrap_used, clippy::panic, clippy::type_complexity, missing_docs)]

mod plain;

use plain::*;
use proptest::prelude::*;
use warren_tensor::*;

fn conv2d_reference(x: &Dense, w: &Dense, b: Option<&Dense>, c: &Conv2d) -> Dense {
    let nhwc = c.input_layout == InputLayout::Nhwc;
    let input = |n, ch, y, xx| {
        if nhwc { x.at(&[n, y, xx, ch]) } else { x.at(&[n, ch, y, xx]) }
    };
    let (n, ic, ih, iw) = if nhwc {
        (x.shape[0], x.shape[3], x.shape[1], x.shape[2])
    } else {
        (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
    };
    let order = match c.filter_layout {
        FilterLayout::Oihw => [0, 1, 2, 3],
        FilterLayout::Hwio => [3, 2, 0, 1],
        FilterLayout::Ohwi => [0, 3, 1, 2],
        FilterLayout::Ihwo => [3, 0, 1, 2],
    };
    let [oc, fi, kh, kw] = order.map(|i| w.shape[i]);
    let weight = |o: usize, i: usize, y: usize, xx: usize| {
        let mut index = [0; 4];
        for (v, at) in [o, i, y, xx].into_iter().zip(order) {
            index[at] = v;
        }
        w.at(&index)
    };
    let [top, bottom, left, right] = c.padding.map(|v| v as usize);
    let [sh, sw] = c.strides.map(|v| v as usize);
    let [dh, dw] = c.dilations.map(|v| v as usize);
    let oh = (ih + top + bottom - (kh - 1) * dh - 1) / sh + 1;
    let ow = (iw + left + right - (kw - 1) * dw - 1) / sw + 1;
    let per_group = oc / c.groups as usize;
    let out = if nhwc { [n, oh, ow, oc] } else { [n, oc, oh, ow] };
    let _ = ic;
    Dense::from_fn(&out, |at| {
        let (image, o, y, xx) =
            if nhwc { (at[0], at[3], at[1], at[2]) } else { (at[0], at[1], at[2], at[3]) };
        let mut sum = b.map_or(0.0, |b| b.data[o]);
        for i in 0..fi {
            for ky in 0..kh {
                for kx in 0..kw {
                    let (iy, ix) = (
                        (y * sh + ky * dh) as isize - top as isize,
                        (xx * sw + kx * dw) as isize - left as isize,
                    );
                    if (0..ih as isize).contains(&iy) && (0..iw as isize).contains(&ix) {
                        sum += weight(o, i, ky, kx)
                            * input(image, o / per_group * fi + i, iy as usize, ix as usize);
                    }
                }
            }
        }
        sum
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_global_rejects: 1 << 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn binary_broadcasts(to in shape(0..=4, 7), ma in any::<u32>(), mb in any::<u32>(), da in 0..3usize, seed in any::<u64>(), op in 0..6usize, w in 0..2usize) {
        let a = Dense::noise(&shrink(&to, ma & !mb, da), seed);
        let b = Dense::noise(&shrink(&to, mb, 0), seed ^ 99);
        let (kind, f): (Binary, fn(f64, f64) -> f64) = [
            (Binary::Add, (|x, y| x + y) as fn(f64, f64) -> f64),
            (Binary::Sub, |x, y| x - y),
            (Binary::Mul, |x, y| x * y),
            (Binary::Div, |x, y| x / y),
            (Binary::Max, f64::max),
            (Binary::Min, f64::min),
        ][op];
        let out: Vec<usize> = to.iter().enumerate().map(|(i, &d)| {
            let one_a = i < da.min(to.len()) || (ma & !mb) & (1 << i) != 0;
            if one_a && mb & (1 << i) != 0 { 1 } else { d }
        }).collect();
        let want = Dense::from_fn(&out, |i| f(a.at(i), b.at(i)));
        check(w, Op::Binary(kind), &[&a, &b], &want, 1e-6)?;
    }

    #[test]
    fn unary(to in shape(0..=3, 40), seed in any::<u64>(), op in 0..14usize, w in 0..2usize) {
        let x = Dense::noise(&to, seed);
        let cases: [(Op, fn(f64) -> f64); 14] = [
            (Op::Unary(Unary::Exp), f64::exp),
            (Op::Unary(Unary::Tanh), f64::tanh),
            (Op::Unary(Unary::Sin), f64::sin),
            (Op::Unary(Unary::Cos), f64::cos),
            (Op::Unary(Unary::Abs), f64::abs),
            (Op::Unary(Unary::Ceil), f64::ceil),
            (Op::Unary(Unary::Floor), f64::floor),
            (Op::Unary(Unary::RoundEven), f64::round_ties_even),
            (Op::Unary(Unary::Log), f64::ln),
            (Op::Unary(Unary::Sqrt), f64::sqrt),
            (Op::Unary(Unary::Softplus), |x| x.exp().ln_1p()),
            (Op::Unary(Unary::Softsign), |x| x / (1.0 + x.abs())),
            (Op::Elu { alpha: 0.5 }, |x| if x >= 0.0 { x } else { 0.5 * x.exp_m1() }),
            (Op::Clamp { min: Some(-1.0), max: None }, |x| x.max(-1.0)),
        ];
        let (op, f) = cases[op];
        let want = Dense::from_fn(&to, |i| f(x.at(i)));
        check(w, op, &[&x], &want, 2e-6)?;
    }

    #[test]
    fn reductions(to in shape(1..=5, 9), mask in any::<u32>(), keep in any::<bool>(), seed in any::<u64>(), op in 0..10usize, w in 0..2usize) {
        let x = Dense::noise(&to, seed);
        let axes: Vec<usize> = (0..to.len()).filter(|i| mask & (1 << i) != 0).collect();
        let kinds = [Reduction::L1, Reduction::L2, Reduction::LogSum, Reduction::LogSumExp, Reduction::Max, Reduction::Mean, Reduction::Min, Reduction::Product, Reduction::Sum, Reduction::SumSquare];
        let kind = kinds[op];
        let kept: Vec<usize> = to.iter().enumerate().map(|(i, &d)| if axes.contains(&i) { 1 } else { d }).collect();
        let mut groups: Vec<Vec<f64>> = vec![Vec::new(); kept.iter().product()];
        let place = Dense::from_fn(&kept, { let mut n = -1.0; move |_| { n += 1.0; n } });
        Dense::from_fn(&to, |i| { groups[place.at(i) as usize].push(x.at(i)); 0.0 });
        let value = |g: &Vec<f64>| match kind {
            Reduction::L1 => g.iter().map(|v| v.abs()).sum(),
            Reduction::L2 => g.iter().map(|v| v * v).sum::<f64>().sqrt(),
            Reduction::LogSum => g.iter().sum::<f64>().ln(),
            Reduction::LogSumExp => g.iter().map(|v| v.exp()).sum::<f64>().ln(),
            Reduction::Max => g.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            Reduction::Mean => g.iter().sum::<f64>() / g.len() as f64,
            Reduction::Min => g.iter().copied().fold(f64::INFINITY, f64::min),
            Reduction::Product => g.iter().product(),
            Reduction::Sum => g.iter().sum(),
            Reduction::SumSquare => g.iter().map(|v| v * v).sum(),
        };
        let data: Vec<f64> = groups.iter().map(value).collect();
        // ln is steep near 0: sums that cancel are left out.
        prop_assume!(kind != Reduction::LogSum || data.iter().all(|v| v.is_nan() || *v > -3.0));
        let shape: Vec<usize> = if keep { kept } else { (0..to.len()).filter(|i| !axes.contains(i)).map(|i| to[i]).collect() };
        let op = Op::Reduce { kind, axes: Some(dims(&axes)), keep_dimensions: keep };
        let tolerance = if kind == Reduction::LogSum { 1e-3 } else { 2e-5 };
        check(w, op, &[&x], &Dense { shape, data }, tolerance)?;
    }

    #[test]
    fn slices(to in shape(1..=4, 12), picks in prop::collection::vec((0.0..1.0f64, 0.0..=1.0f64, 1..4usize), 4), seed in any::<u64>(), w in 0..2usize) {
        let x = Dense::noise(&to, seed);
        let starts: Vec<usize> = to.iter().zip(&picks).map(|(&d, p)| (d as f64 * p.0) as usize).collect();
        let sizes: Vec<usize> = to.iter().zip(&starts).zip(&picks).map(|((&d, &s), p)| ((d - s) as f64 * p.1) as usize).collect();
        let steps: Vec<usize> = picks.iter().take(to.len()).map(|p| p.2).collect();
        let out: Vec<usize> = sizes.iter().zip(&steps).map(|(s, t)| s.div_ceil(*t)).collect();
        let want = Dense::from_fn(&out, |i| {
            let at: Vec<usize> = i.iter().enumerate().map(|(a, v)| starts[a] + v * steps[a]).collect();
            x.at(&at)
        });
        let op = Op::Slice { starts: dims(&starts), sizes: dims(&sizes), strides: Some(dims(&steps)) };
        check(w, op, &[&x], &want, 0.0)?;
    }

    #[test]
    fn transposes(to in shape(0..=5, 8), big in 1..5usize, keys in prop::collection::vec(any::<u32>(), 5), seed in any::<u64>(), w in 0..2usize) {
        let mut to = to;
        if let Some(last) = to.last_mut() { *last *= big * 5; }
        let mut permutation: Vec<usize> = (0..to.len()).collect();
        permutation.sort_by_key(|&i| keys[i]);
        let x = Dense::noise(&to, seed);
        let out: Vec<usize> = permutation.iter().map(|&p| to[p]).collect();
        let want = Dense::from_fn(&out, |i| {
            let mut at = vec![0; i.len()];
            permutation.iter().zip(i).for_each(|(&p, &v)| at[p] = v);
            x.at(&at)
        });
        check(w, Op::Transpose { permutation: Some(dims(&permutation)) }, &[&x], &want, 0.0)?;
    }

    #[test]
    fn pads(to in shape(1..=4, 6), amounts in prop::collection::vec((0..5usize, 0..5usize), 4), mode in 0..3usize, seed in any::<u64>(), w in 0..2usize) {
        let x = Dense::noise(&to, seed);
        let limit = |d: usize, v: usize| if mode == 2 { v.min(d - 1) } else { v };
        let before: Vec<usize> = to.iter().zip(&amounts).map(|(&d, a)| limit(d, a.0)).collect();
        let after: Vec<usize> = to.iter().zip(&amounts).map(|(&d, a)| limit(d, a.1)).collect();
        let out: Vec<usize> = (0..to.len()).map(|i| to[i] + before[i] + after[i]).collect();
        let want = Dense::from_fn(&out, |i| {
            let mut at = Vec::new();
            for (axis, &v) in i.iter().enumerate() {
                let (p, d) = (v as isize - before[axis] as isize, to[axis] as isize);
                at.push(match mode {
                    0 if p < 0 || p >= d => return 2.5,
                    1 => p.clamp(0, d - 1),
                    2 if p < 0 => -p,
                    2 if p >= d => 2 * (d - 1) - p,
                    _ => p,
                } as usize);
            }
            x.at(&at)
        });
        let mode = [PaddingMode::Constant(2.5), PaddingMode::Edge, PaddingMode::Reflection][mode];
        check(w, Op::Pad { beginning: dims(&before), ending: dims(&after), mode }, &[&x], &want, 0.0)?;
    }

    #[test]
    fn concats(to in shape(1..=4, 6), axis in 0..4usize, sizes in prop::collection::vec(0..5usize, 1..5), seed in any::<u64>(), w in 0..2usize) {
        let axis = axis % to.len();
        let parts: Vec<Dense> = sizes.iter().enumerate().map(|(i, &n)| {
            let mut shape = to.clone();
            shape[axis] = n;
            Dense::noise(&shape, seed ^ i as u64)
        }).collect();
        let mut out = to.clone();
        out[axis] = sizes.iter().sum();
        let want = Dense::from_fn(&out, |i| {
            let mut at = i.to_vec();
            let mut part = 0;
            while at[axis] >= sizes[part] {
                at[axis] -= sizes[part];
                part += 1;
            }
            parts[part].at(&at)
        });
        let inputs: Vec<&Dense> = parts.iter().collect();
        check(w, Op::Concat { axis: axis as u32 }, &inputs, &want, 0.0)?;
    }

    #[test]
    fn softmaxes(to in shape(1..=4, 20), axis in 0..4usize, seed in any::<u64>(), w in 0..2usize) {
        let axis = axis % to.len();
        let x = Dense::noise(&to, seed);
        let want = Dense::from_fn(&to, |i| {
            let line = (0..to[axis]).map(|v| { let mut at = i.to_vec(); at[axis] = v; x.at(&at).exp() });
            x.at(i).exp() / line.sum::<f64>()
        });
        check(w, Op::Softmax { axis: axis as u32 }, &[&x], &want, 1e-6)?;
    }

    #[test]
    fn matmuls(lead in shape(0..=3, 3), ma in any::<u32>(), mb in any::<u32>(), da in 0..3usize, m in 1..40usize, k in 0..40usize, n in 1..40usize, seed in any::<u64>(), w in 0..2usize) {
        let (mut sa, mut sb) = (shrink(&lead, ma & !mb, da), shrink(&lead, mb, 0));
        let out_lead: Vec<usize> = lead.iter().enumerate().map(|(i, &d)| {
            let one_a = i < da.min(lead.len()) || (ma & !mb) & (1 << i) != 0;
            if one_a && mb & (1 << i) != 0 { 1 } else { d }
        }).collect();
        sa.extend([m, k]);
        sb.extend([k, n]);
        let (a, b) = (Dense::noise(&sa, seed), Dense::noise(&sb, seed ^ 7));
        let mut out = out_lead;
        out.extend([m, n]);
        let want = Dense::from_fn(&out, |i| {
            let r = i.len();
            (0..k).map(|p| {
                let (mut x, mut y) = (i.to_vec(), i.to_vec());
                x[r - 1] = p;
                y[r - 2] = p;
                a.at(&x) * b.at(&y)
            }).sum()
        });
        check(w, Op::Matmul, &[&a, &b], &want, 1e-4)?;
    }

    #[test]
    fn gemms(m in 1..30usize, k in 0..30usize, n in 1..30usize, at in any::<bool>(), bt in any::<bool>(), c in 0..4usize, seed in any::<u64>(), w in 0..2usize) {
        let a = Dense::noise(&if at { [k, m] } else { [m, k] }, seed);
        let b = Dense::noise(&if bt { [n, k] } else { [k, n] }, seed ^ 3);
        let shapes = [vec![], vec![n], vec![m, 1], vec![m, n]];
        let c = Dense::noise(&shapes[c], seed ^ 5);
        let want = Dense::from_fn(&[m, n], |i| {
            let sum: f64 = (0..k).map(|p| {
                let x = if at { a.at(&[p, i[0]]) } else { a.at(&[i[0], p]) };
                let y = if bt { b.at(&[i[1], p]) } else { b.at(&[p, i[1]]) };
                x * y
            }).sum();
            0.5 * sum - 2.0 * c.at(i)
        });
        let op = Op::Gemm { alpha: 0.5, beta: -2.0, a_transpose: at, b_transpose: bt };
        check(w, op, &[&a, &b, &c], &want, 1e-4)?;
    }

    #[test]
    fn convolutions(
        n in 1..3usize, groups in 1..4usize, icg in 1..6usize, ocg in 1..14usize, h in 1..9usize, iw in 1..70usize,
        kernel in (1..5usize, 1..6usize), pad in prop::array::uniform4(0..4u32), strides in prop::array::uniform2(1..4u32),
        dilations in prop::array::uniform2(1..3u32), layouts in (0..2usize, 0..4usize), extras in (any::<bool>(), any::<bool>()), seed in any::<u64>(), w in 0..2usize,
    ) {
        let (kh, kw) = kernel;
        let reach = |k: usize, d: u32| (k - 1) * d as usize + 1;
        prop_assume!(h + (pad[0] + pad[1]) as usize >= reach(kh, dilations[0]) && iw + (pad[2] + pad[3]) as usize >= reach(kw, dilations[1]));
        let c = Conv2d {
            padding: pad, strides, dilations, groups: groups as u32,
            input_layout: [InputLayout::Nchw, InputLayout::Nhwc][layouts.0],
            filter_layout: [FilterLayout::Oihw, FilterLayout::Hwio, FilterLayout::Ohwi, FilterLayout::Ihwo][layouts.1],
        };
        let (ic, oc) = (groups * icg, groups * ocg);
        let x = Dense::noise(&if layouts.0 == 1 { [n, h, iw, ic] } else { [n, ic, h, iw] }, seed);
        let f = Dense::noise(&[[oc, icg, kh, kw], [kh, kw, icg, oc], [oc, kh, kw, icg], [icg, kh, kw, oc]][layouts.1], seed ^ 1);
        let b = Dense::noise(&[oc], seed ^ 2);
        let (bias, relu) = extras;
        let mut want = conv2d_reference(&x, &f, bias.then_some(&b), &c);
        let mut s = session(w);
        let mut ids = vec![put(&mut s, &x), put(&mut s, &f)];
        if bias { ids.push(put(&mut s, &b)); }
        let mut id = s.record(Op::Conv2d(c), &ids).map_err(|e| TestCaseError::fail(e.to_string()))?;
        if relu {
            want.data.iter_mut().for_each(|v| *v = v.max(0.0));
            let y = s.record(Op::Unary(Unary::Relu), &[id]).unwrap();
            s.release(id);
            id = y;
        }
        close(&get(&mut s, id), &want, 1e-4)?;
    }

    /// Random element-wise graphs, with reshapes, broadcasts, held and dropped handles: computed
    /// in one dispatch and one operation at a time, to the same bits.
    #[test]
    fn fused_equals_unfused(to in shape(1..=3, 30), half in any::<bool>(), steps in prop::collection::vec((0..10usize, any::<u16>(), any::<u16>(), any::<bool>()), 1..60), seed in any::<u64>(), w in 0..2usize) {
        let run = |eager: bool| {
            let mut s = session(w);
            let count: usize = to.iter().product();
            let mut ids = vec![put(&mut s, &Dense::noise(&to, seed))];
            let row = Dense::noise(&to[to.len() - 1..], seed ^ 1);
            let row = put(&mut s, &row);
            let scalar = put(&mut s, &Dense::noise(&[], seed ^ 2));
            let fill = s.record(Op::Fill { data_type: DataType::Float32, shape: Dims::SCALAR, value: 0.75 }, &[]).unwrap();
            let mut extra = vec![row, scalar, fill];
            if half {
                for id in ids.iter_mut().chain(&mut extra) {
                    *id = s.record(Op::Cast { to: DataType::Float16 }, &[*id]).unwrap();
                }
            }
            for &(kind, a, b, drop) in &steps {
                let a = ids[a as usize % ids.len()];
                let b = ids[b as usize % ids.len()];
                let other = extra[kind % 3];
                let y = match kind {
                    0 => s.record(Op::Binary(Binary::Add), &[a, b]),
                    1 => s.record(Op::Binary(Binary::Mul), &[a, other]),
                    2 => s.record(Op::Binary(Binary::Sub), &[other, a]),
                    3 => s.record(Op::Unary(Unary::Tanh), &[a]),
                    4 => s.record(Op::LeakyRelu { alpha: 0.3 }, &[a]),
                    5 => {
                        let c = s.record(Op::Compare(Compare::Lesser), &[a, b]).unwrap();
                        s.record(Op::Where, &[c, a, other])
                    }
                    6 => {
                        let flat = s.record(Op::Reshape { shape: dims(&[count]) }, &[a]).unwrap();
                        let r = s.record(Op::Unary(Unary::Sigmoid), &[flat]).unwrap();
                        s.record(Op::Reshape { shape: dims(&to) }, &[r])
                    }
                    7 => s.record(Op::Binary(Binary::Max), &[a, b]),
                    8 => {
                        let i = s.record(Op::Cast { to: DataType::Int32 }, &[a]).unwrap();
                        let n = s.record(Op::Unary(Unary::Neg), &[i]).unwrap();
                        s.record(Op::Cast { to: if half { DataType::Float16 } else { DataType::Float32 } }, &[n])
                    }
                    _ => {
                        let e = s.record(Op::Expand { shape: dims(&to) }, &[other]).unwrap();
                        s.record(Op::Binary(Binary::Add), &[e, a])
                    }
                }.unwrap();
                if eager { s.dispatch(&[y]).unwrap(); }
                if drop && ids.len() > 2 {
                    let gone = ids.remove(ids.len() / 2);
                    s.release(gone);
                }
                ids.push(y);
            }
            s.dispatch(&ids).unwrap();
            ids.iter().map(|&id| s.value(id).unwrap().bytes().to_vec()).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(false), run(true));
    }
}
