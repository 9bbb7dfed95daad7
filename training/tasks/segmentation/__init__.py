"""Fine-tuning: a pre-trained model labels every pixel (the paper's Table 3)."""
