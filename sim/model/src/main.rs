fn main() {
    println!("{}", model::check::law::<model::object::Object>());
    println!("{}", model::check::rules::<model::object::Object>());
}
