//! Who shows a service account token: TokenReview, remembered for a while.
