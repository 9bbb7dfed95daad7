"""The two published RGB-D backbones that the study is compared with: DFormer-Tiny and DFormerv2-Small."""
