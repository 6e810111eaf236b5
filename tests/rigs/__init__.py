"""Provide test rigs: numbered video clips and RTSP servers with faults on request."""
