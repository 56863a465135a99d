"""A training set becomes a trained dueling double DQN with its MLflow run, checkpoint and ONNX file."""
