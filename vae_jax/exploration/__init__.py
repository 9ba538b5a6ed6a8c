"""What people do with a trained model: takes models and arrays, not workdirs."""
