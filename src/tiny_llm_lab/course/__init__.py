"""The course as data: reads course.toml and derives skeleton, grading, hints and progress."""
