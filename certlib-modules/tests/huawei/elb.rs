//! elb
