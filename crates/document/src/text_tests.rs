use super::*;

#[test]
fn durations_are_read_and_written() {
    for (text, millis, written) in [
        ("250ms", 250, "250ms"),
        ("5s", 5_000, "5s"),
        ("2m", 120_000, "2m"),
        ("1h", 3_600_000, "1h"),
        ("1h30m", 5_400_000, "90m"),
        ("90s", 90_000, "90s"),
        ("1m500ms", 60_500, "60500ms"),
        ("0s", 0, "0s"),
    ] {
        let span: Span = text.parse().unwrap();
        assert_eq!(span, Span::from_millis(millis), "{text}");
        assert_eq!(span.to_string(), written);
        assert_eq!(written.parse::<Span>().unwrap(), span);
    }
}

#[test]
fn texts_that_are_no_duration_are_refused_with_a_remedy() {
    for text in ["", "5", "s", "5 s", "-5s", "5d", "1.5s", "5s5s", "1m1h", "5S", "５s", "5sé"] {
        let error = text.parse::<Span>().unwrap_err().to_string();
        assert!(error.ends_with(SPAN_REMEDY), "{text}: {error}");
    }
    for text in ["99999999999999999999h", "18446744073709551615h"] {
        assert!(text.parse::<Span>().unwrap_err().to_string().contains("too long"), "{text}");
    }
}

#[test]
fn sizes_are_read_and_written() {
    for (text, bytes) in [("0B", 0), ("512B", 512), ("64KiB", 65_536), ("2MiB", 2 << 20), ("3GiB", 3 << 30)] {
        let size: Size = text.parse().unwrap();
        assert_eq!((size.bytes(), size.to_string()), (bytes, text.to_owned()));
    }
    for text in ["", "64", "KiB", "64KB", "64k", "1.5MiB", "-1B", "64 KiB", "1MiB1B"] {
        assert!(text.parse::<Size>().unwrap_err().to_string().ends_with(SIZE_REMEDY), "{text}");
    }
    assert!("18446744073709551615KiB".parse::<Size>().unwrap_err().to_string().contains("too large"));
}

#[test]
fn blocks_must_be_what_they_say() {
    for text in ["10.0.0.0/8", "0.0.0.0/0", "fd00::/64", "::/0", "10.1.2.3/32"] {
        assert_eq!(text.parse::<CidrText>().unwrap().to_string(), text);
    }
    assert_eq!("10.1.2.3".parse::<CidrText>().unwrap().prefix_len(), 32);
    let error = "10.1.2.3/8".parse::<CidrText>().unwrap_err().to_string();
    assert_eq!(error, r#""10.1.2.3/8" has bits beyond its prefix; write 10.0.0.0/8, or 10.1.2.3 for the one address"#);
    for text in ["", "x", "10.0.0.0/", "/8", "10.0.0.0/33", "::/129", "10.0.0.0/-1"] {
        assert!(text.parse::<CidrText>().is_err(), "{text}");
    }
}
