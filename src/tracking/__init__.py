"""What remains of a run: the local journal, Sacred (files and MongoDB), TensorBoard, the console."""
