"""What a trained world model sees, predicts and keeps apart: pictures, videos and numbers."""
