//! The image processor against Pillow, and against files that lie.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use vila_model::image::{
    ChannelStats, GeometryMode, ImageError, ImageFormat, ImageProcessor, ProcessorError, Window, decode,
    resize_bicubic, resize_bicubic_window,
};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/images")
}

fn read(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).unwrap()
}

fn picture(name: &str) -> RgbImage {
    decode(&read(name), name).unwrap()
}

fn expectations() -> Vec<(String, Value)> {
    let expect: Value = serde_json::from_slice(&read("expect.json")).unwrap();
    assert_eq!(expect["side"], 224);
    expect["images"].as_object().unwrap().iter().map(|(name, entry)| (name.clone(), entry.clone())).collect()
}

/// How two images differ: (largest difference, mean difference, share of bytes more than 8 apart).
fn difference(ours: &RgbImage, theirs: &RgbImage) -> (u8, f64, f64) {
    assert_eq!(ours.dimensions(), theirs.dimensions());
    let gaps: Vec<u8> = ours.as_raw().iter().zip(theirs.as_raw()).map(|(a, b)| a.abs_diff(*b)).collect();
    let count = gaps.len() as f64;
    let sum: f64 = gaps.iter().map(|&gap| f64::from(gap)).sum();
    let far = gaps.iter().filter(|&&gap| gap > 8).count() as f64;
    (gaps.iter().copied().max().unwrap(), sum / count, far / count)
}

#[test]
fn golden_geometry_matches_pillow() {
    let processor = ImageProcessor::clip(224);
    assert_eq!(processor.fill(), [122, 116, 104]);
    for (name, entry) in expectations() {
        let source = picture(&name);
        let size = &entry["size"];
        assert_eq!(json!([source.width(), source.height()]), *size, "{name}");
        for (key, mode) in [("pad", GeometryMode::Pad), ("crop", GeometryMode::Square)] {
            let ours = processor.clone().with_mode(mode).geometry(&source);
            let (largest, mean, far) = difference(&ours, &picture(entry[key].as_str().unwrap()));
            let exact = name.ends_with(".png") || name.ends_with(".gif");
            if exact {
                assert!(largest <= 1, "{name} {mode}: {largest} levels apart");
            } else {
                assert!(mean <= 1.0 && far <= 0.001, "{name} {mode}: mean {mean}, far {far}");
            }
            println!("{name} {mode}: max {largest}, mean {mean:.4}, far {far:.5}");
        }
    }
}

#[test]
fn resampling_matches_the_numbers_of_the_specification() {
    let row = RgbImage::from_fn(4, 1, |x, _| Rgb([[0, 64, 128, 255][x as usize]; 3]));
    let red = |image: &RgbImage| image.pixels().map(|pixel| pixel.0[0]).collect::<Vec<_>>();
    assert_eq!(red(&resize_bicubic(&row, 2, 1)), [35, 183]);
    assert_eq!(red(&resize_bicubic(&row, 8, 1)), [0, 11, 45, 79, 108, 161, 232, 255]);

    let formula = |c: u32, r: u32| ((37 * r + 53 * c + 11 * ((r * c) % 7)) % 256) as u8;
    let square = RgbImage::from_fn(8, 8, |c, r| Rgb([formula(c, r); 3]));
    assert_eq!(red(&resize_bicubic(&square, 3, 3)), [98, 121, 126, 130, 106, 167, 100, 166, 95]);
    assert_eq!(
        red(&resize_bicubic(&square, 5, 6)),
        [
            25, 116, 180, 62, 107, 80, 182, 83, 112, 179, 146, 100, 57, 153, 218, 175, 70, 118, 212, 87, 149, 84, 183,
            191, 35, 58, 109, 195, 90, 87
        ]
    );
    assert_eq!(resize_bicubic(&square, 8, 8), square);
}

#[test]
fn a_window_is_a_part_of_the_whole() {
    let source = picture("cat_rgba.png");
    for size in [(90, 61), (200, 333), (401, 200)] {
        let whole = resize_bicubic(&source, size.0, size.1);
        let window = Window { x: 13, y: 7, width: 50, height: 41 };
        let part = resize_bicubic_window(&source, size, window);
        let cut = image::imageops::crop_imm(&whole, 13, 7, 50, 41).to_image();
        assert!(part == cut, "{size:?}");
    }
}

#[test]
fn extreme_shapes_cost_no_more_than_what_is_kept() {
    let needle = RgbImage::from_fn(60_000, 1, |x, _| Rgb([(x % 251) as u8; 3]));
    let kept = ImageProcessor::clip(336).geometry(&needle);
    assert_eq!(kept.dimensions(), (336, 336));
}

#[test]
fn normalisation_matches_the_numbers_of_the_specification() {
    let clip = ImageProcessor::clip(2);
    let close = |ours: f32, expected: f32| assert!((ours - expected).abs() < 1e-6, "{ours} is not {expected}");
    let black = clip.process(&RgbImage::new(2, 2));
    let white = clip.process(&RgbImage::from_pixel(2, 2, Rgb([255; 3])));
    assert_eq!(black.len(), 12);
    for channel in 0..3 {
        close(black[channel * 4 + 3], [-1.792_262_6, -1.752_097_1, -1.480_219_8][channel]);
        close(white[channel * 4], [1.930_336_3, 2.074_883_8, 2.145_897][channel]);
    }
    let siglip = ImageProcessor::siglip(3);
    assert_eq!(siglip.mode(), GeometryMode::Resize);
    assert_eq!(siglip.process(&RgbImage::new(7, 2)), [-1.0; 27]);
    assert_eq!(siglip.process(&RgbImage::from_pixel(1, 1, Rgb([255; 3]))), [1.0; 27]);
}

#[test]
fn planes_are_channel_first_and_row_major() {
    let picture = RgbImage::from_fn(2, 2, |x, y| Rgb([(x + 2 * y) as u8, 10, 20 + x as u8]));
    let identity = ChannelStats { mean: [0.0; 3], std: [1.0; 3] };
    let values = ImageProcessor::siglip(2).with_stats(identity).process(&picture);
    let levels: Vec<u8> = values.iter().map(|value| (value * 255.0).round() as u8).collect();
    assert_eq!(levels, [0, 1, 2, 3, 10, 10, 10, 10, 20, 21, 20, 21]);
}

#[test]
fn every_cut_of_every_good_file_is_refused_by_name() {
    for (name, _) in expectations() {
        let whole = read(&name);
        for percent in 10..=90 {
            let cut = &whole[..whole.len() * percent / 100];
            let error = decode(cut, &name).expect_err(&format!("{name} at {percent}%"));
            assert!(matches!(error, ImageError::Truncated { .. }), "{name} at {percent}%: {error}");
            assert!(error.to_string().contains(&name), "{error}");
        }
    }
}

#[test]
fn the_last_byte_counts_too() {
    for (name, _) in expectations() {
        let whole = read(&name);
        let error = decode(&whole[..whole.len() - 1], &name).unwrap_err();
        assert!(matches!(error, ImageError::Truncated { .. }), "{name}: {error}");
    }
}

#[test]
fn bad_files_have_typed_errors() {
    let processor = ImageProcessor::clip(28);
    let load = |name: &str| processor.load(fixtures().join(name)).unwrap_err();
    assert!(matches!(load("truncated.jpg"), ImageError::Truncated { format: ImageFormat::Jpeg, .. }));
    assert!(matches!(load("not_an_image.jpg"), ImageError::UnknownFormat { .. }));
    assert!(matches!(load("empty.png"), ImageError::Empty { .. }));
    assert!(matches!(load("absent.png"), ImageError::Read { .. }));
    for name in ["truncated.jpg", "not_an_image.jpg", "empty.png", "absent.png"] {
        let message = load(name).to_string();
        assert!(message.contains(name), "{message}");
        assert!(message.contains(';'), "{message} gives no cure");
    }
}

#[test]
fn damage_inside_a_complete_file_is_found() {
    let mut png = read("astronaut_small.png");
    let middle = png.len() / 2;
    png[middle] ^= 0x10;
    assert!(matches!(decode(&png, "flipped.png"), Err(ImageError::Corrupt { .. })));
}

#[test]
fn random_damage_never_panics() {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for (name, _) in expectations() {
        let whole = read(&name);
        for _ in 0..40 {
            let mut damaged = whole.clone();
            for _ in 0..1 + next() % 4 {
                let at = (next() % damaged.len().min(2000) as u64) as usize;
                damaged[at] = next() as u8;
            }
            let _ = decode(&damaged, &name);
        }
    }
}

#[test]
fn a_decompression_bomb_is_refused_before_it_is_unpacked() {
    let mut png = read("tiny_3x5.png");
    png[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let crc = crc_of(&png[12..29]).to_be_bytes();
    png[29..33].copy_from_slice(&crc);
    let error = decode(&png, "bomb.png").unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { width: 65536, height: 65536, .. }), "{error}");
}

fn crc_of(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

#[test]
fn the_file_name_does_not_decide_the_format() {
    let jpeg = read("cat.jpg");
    assert_eq!(ImageFormat::of(&jpeg), Some(ImageFormat::Jpeg));
    assert_eq!(decode(&jpeg, "cat.png").unwrap().dimensions(), (451, 300));
}

#[test]
fn sixteen_bit_and_grey_sources_become_rgb() {
    let grey = image::DynamicImage::ImageLuma16(image::ImageBuffer::from_pixel(2, 1, image::Luma([0x12FF])));
    let mut bytes = std::io::Cursor::new(Vec::new());
    grey.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    // Pillow saturates plain grey of 16 bits and takes the high byte of everything else.
    assert_eq!(decode(bytes.get_ref(), "grey16.png").unwrap().as_raw(), &[0xFF; 6]);
    let color =
        image::DynamicImage::ImageRgb16(image::ImageBuffer::from_pixel(1, 1, image::Rgb([0x12FF, 0x7F80, 300])));
    let mut bytes = std::io::Cursor::new(Vec::new());
    color.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    assert_eq!(decode(bytes.get_ref(), "color16.png").unwrap().as_raw(), &[18, 127, 1]);
}

fn config(text: &str) -> Result<ImageProcessor, ProcessorError> {
    ImageProcessor::from_json(&serde_json::from_str(text).unwrap(), "preprocessor_config.json")
}

#[test]
fn public_configurations_are_understood() {
    let old_clip = r#"{"crop_size": 224, "do_center_crop": true, "do_normalize": true, "do_resize": true,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": 224}"#;
    assert_eq!(config(old_clip).unwrap(), ImageProcessor::clip(224));
    let siglip = r#"{"do_normalize": true, "do_rescale": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor", "image_std": [0.5, 0.5, 0.5], "processor_class": "SiglipProcessor",
        "resample": 3, "rescale_factor": 0.00392156862745098, "size": {"height": 384, "width": 384}}"#;
    assert_eq!(config(siglip).unwrap(), ImageProcessor::siglip(384));
    let tiny = fixtures().join("../tiny-llava-hf/preprocessor_config.json");
    assert_eq!(ImageProcessor::from_file(tiny).unwrap(), ImageProcessor::clip(28));
}

#[test]
fn configurations_survive_a_round_trip() {
    let stats = ChannelStats { mean: [0.3; 3], std: [0.35; 3] };
    let uneven = r#"{"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": true,
        "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3], "do_rescale": false, "do_normalize": false}"#;
    for processor in [
        ImageProcessor::clip(336),
        ImageProcessor::siglip(16).with_stats(stats),
        ImageProcessor::clip(336).with_mode(GeometryMode::Pad),
        ImageProcessor::siglip(384).with_mode(GeometryMode::Pad),
        config(uneven).unwrap(),
    ] {
        let written = processor.to_json();
        assert_eq!(ImageProcessor::from_json(&written, "again").unwrap(), processor, "{written}");
    }
    assert_eq!(ImageProcessor::siglip(16).with_stats(stats).to_json()["image_mean"], json!([0.3, 0.3, 0.3]));
}

#[test]
fn a_changed_mode_survives_as_the_same_pixels() {
    let source = picture("astronaut_small.png");
    for base in [ImageProcessor::clip(32), ImageProcessor::siglip(32)] {
        for mode in [GeometryMode::Pad, GeometryMode::Square, GeometryMode::Resize] {
            let processor = base.clone().with_mode(mode);
            let again = ImageProcessor::from_json(&processor.to_json(), "again").unwrap();
            assert_eq!(again.process(&source), processor.process(&source), "{mode}");
        }
    }
}

#[test]
fn a_crop_wider_than_the_resized_picture_is_padded_with_black() {
    let processor = config(
        r#"{"size": {"shortest_edge": 4}, "crop_size": 8, "do_center_crop": true, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}"#,
    )
    .unwrap();
    let fitted = processor.geometry(&RgbImage::from_pixel(12, 4, Rgb([200; 3])));
    let column = |x: u32| (0..8).map(|y| fitted.get_pixel(x, y).0[0]).collect::<Vec<_>>();
    assert_eq!(column(0), [0, 0, 200, 200, 200, 200, 0, 0]);
    assert_eq!(column(7), column(0));
}

#[test]
fn unsupported_configurations_name_file_and_field() {
    for (text, field) in [
        (r#"{"size": 224, "resample": 2, "image_mean": [0,0,0], "image_std": [1,1,1]}"#, "resample"),
        (r#"{"image_processor_type": "CLIPImageProcessor"}"#, "size"),
        (r#"{"size": {"height": 2, "width": 3}, "image_mean": [0,0,0], "image_std": [1,1,1]}"#, "size"),
        (r#"{"size": {"shortest_edge": 2}, "image_mean": [0,0,0], "image_std": [1,1,1]}"#, "size.shortest_edge"),
        (r#"{"size": 0, "image_mean": [0,0,0], "image_std": [1,1,1]}"#, "size"),
        (r#"{"size": 99999999999, "image_mean": [0,0,0], "image_std": [1,1,1]}"#, "size"),
        (r#"{"size": 4, "image_mean": [0,0], "image_std": [1,1,1]}"#, "image_mean"),
        (r#"{"size": 4, "image_mean": [0,0,0], "image_std": [1,0,1]}"#, "image_std"),
        (r#"{"size": 4, "image_std": [1,0,1]}"#, "image_mean"),
        (r#"{"size": 4, "do_resize": "yes"}"#, "do_resize"),
        (r#"{"size": 4, "do_resize": false}"#, "do_resize"),
        (r#"{"size": 4, "rescale_factor": -1}"#, "rescale_factor"),
        (r#"[]"#, "(whole file)"),
    ] {
        let message = config(text).expect_err(text).to_string();
        assert!(
            message.contains("preprocessor_config.json") && message.contains(&format!("`{field}`")),
            "{text}: {message}"
        );
    }
    let error = ImageProcessor::from_file("nowhere/preprocessor_config.json").unwrap_err();
    assert!(matches!(error, ProcessorError::Read { .. }));
}

#[test]
fn a_line_of_pixels_is_not_padded_to_a_canvas_beyond_the_limit() {
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(2, 15_000).write_to(&mut png, image::ImageFormat::Png).expect("png");
    let processor = ImageProcessor::clip(28);
    let padded = processor.clone().with_mode(GeometryMode::Pad).decode_and_process(png.get_ref(), "line.png");
    assert!(matches!(padded, Err(ImageError::TooLarge { width: 15_000, height: 15_000, .. })), "{padded:?}");
    assert!(processor.decode_and_process(png.get_ref(), "line.png").is_ok());
}
